//! Writes the small hub folder of the quickstart anew: `cargo run --release --example make_hub [FOLDER]`.

mod hub;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/hub"), PathBuf::from);
    for (name, bytes) in hub::files()? {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        println!("{:>9}  {}", bytes.len(), path.display());
        std::fs::write(path, bytes)?;
    }
    Ok(())
}
