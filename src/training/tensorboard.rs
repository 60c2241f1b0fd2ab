//! TensorBoard event files: TFRecord frames around `tensorflow.Event` messages.
//!
//! An event carries a wall time. Here that is the step, as a number of seconds: an artifact must not depend on when it
//! was made.

use prost::Message;

use super::Records;

#[derive(Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Always there: a message without it is a value of another kind, and no 0.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The name that TensorBoard looks for.
pub const FILE: &str = "events.out.tfevents.0.cmx";

/// The content of an event file with the scalars of these records.
pub fn events(records: &Records) -> Vec<u8> {
    let mut file = Vec::new();
    let version = Some("brain.Event:2".to_owned());
    frame(&mut file, &Event { wall_time: 0.0, step: 0, file_version: version, summary: None });
    for record in &records.0 {
        let scalars = [
            ("train/loss", record.loss),
            ("train/learning_rate", record.learning_rate),
            ("train/embedding_learning_rate", record.embedding_learning_rate),
            ("train/gradient_norm", record.gradient_norm),
            ("train/z_loss", record.z_loss),
            ("train/router_aux_loss", record.router_aux_loss),
            ("train/router_z_loss", record.router_z_loss),
        ];
        let mut value: Vec<Value> = scalars
            .into_iter()
            .filter_map(|(tag, scalar)| Some(Value { tag: tag.to_owned(), simple_value: Some(scalar? as f32) }))
            .collect();
        for (group, figures) in [("validation", &record.validation), ("bits_per_byte", &record.bits_per_byte)] {
            for (name, figure) in figures.iter().flatten() {
                value.push(Value { tag: format!("{group}/{name}"), simple_value: Some(*figure as f32) });
            }
        }
        let summary = Some(Summary { value });
        frame(
            &mut file,
            &Event { wall_time: record.step as f64, step: record.step as i64, file_version: None, summary },
        );
    }
    file
}

/// TFRecord: length, its masked CRC, the message, its masked CRC; little-endian.
fn frame(file: &mut Vec<u8>, event: &Event) {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc(&length).to_le_bytes());
    file.extend(&message);
    file.extend(masked_crc(&message).to_le_bytes());
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: event files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::Record;

    #[test]
    fn crc_of_the_standard_text() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// The rate of a first step is 0, which a message may not leave out.
    #[test]
    fn a_0_is_written() {
        let message = Value { tag: String::new(), simple_value: Some(0.0) }.encode_to_vec();
        assert!(message.ends_with(&[0x15, 0, 0, 0, 0]), "{message:?}");
    }

    /// The bytes that tensorboard's own EventFileWriter gives for the same event.
    #[test]
    fn frames_as_tensorflow() {
        let record = Record {
            step: 3,
            loss: Some(1.5),
            learning_rate: None,
            embedding_learning_rate: None,
            gradient_norm: None,
            z_loss: None,
            router_aux_loss: None,
            router_z_loss: None,
            blocks: None,
            validation: None,
            bits_per_byte: None,
        };
        let file = events(&Records(vec![record]));
        let first = 12 + 9 + 15 + 4;
        let message = [
            9, 0, 0, 0, 0, 0, 0, 8, 64, 16, 3, 42, 19, 10, 17, 10, 10, b't', b'r', b'a', b'i', b'n', b'/', b'l',
            b'o', b's', b's', 21, 0, 0, 192, 63,
        ];
        assert!(file.windows(message.len()).any(|window| window == message), "{:?}", &file[first..]);
    }
}
