//! Tables for a terminal, where a Chinese character is two columns wide, and for Markdown.

use unicode_width::UnicodeWidthStr;

/// Columns may stand in groups with a title of their own; the first column is aligned left, the others right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The heading of the first column.
    pub corner: String,
    pub groups: Vec<ColumnGroup>,
    /// Of each row the first cell; the others are in the groups.
    pub labels: Vec<String>,
}

/// Neighbouring columns under one title (perhaps empty).
#[derive(Clone, Debug, Default)]
pub struct ColumnGroup {
    pub title: String,
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug, Default)]
pub struct Column {
    pub heading: String,
    /// One for each row.
    pub cells: Vec<String>,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|cell| cell.width()).chain([self.heading.width()]).max().unwrap_or(0)
    }
}

impl ColumnGroup {
    /// Columns stand two spaces apart; a title wider than its columns widens the group.
    fn width(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::width).sum();
        (columns + 2 * self.columns.len().saturating_sub(1)).max(self.title.width())
    }
}

/// Space between groups.
const GAP: &str = "   ";

impl Table {
    /// Lines without trailing spaces, as wide as `width` at most where that is possible: groups that do not fit go
    /// into a further block below, with the labels again.
    pub fn to_text(&self, width: usize) -> String {
        let label_width = self.labels.iter().map(|label| label.width()).chain([self.corner.width()]).max();
        let label_width = label_width.unwrap_or(0);
        let mut blocks: Vec<Vec<&ColumnGroup>> = Vec::new();
        let mut used = 0;
        for group in &self.groups {
            let needed = GAP.len() + group.width();
            match blocks.last_mut() {
                Some(block) if used + needed <= width => block.push(group),
                _ => {
                    used = label_width;
                    blocks.push(vec![group]);
                }
            }
            used += needed;
        }
        let mut text = String::new();
        for block in blocks {
            if !text.is_empty() {
                text.push('\n');
            }
            self.write_block(&block, label_width, &mut text);
        }
        text
    }

    fn write_block(&self, block: &[&ColumnGroup], label_width: usize, text: &mut String) {
        let mut line = |label: &str, cells: &mut dyn FnMut(&ColumnGroup) -> String| {
            let mut line = pad_right(label, label_width);
            for group in block {
                line.push_str(GAP);
                line.push_str(&pad_left(&cells(group), group.width()));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        if block.iter().any(|group| !group.title.is_empty()) {
            line("", &mut |group| pad_right(&group.title, group.width()));
        }
        let cells = |group: &ColumnGroup, of: &dyn Fn(&Column) -> String| {
            let cells = group.columns.iter().map(|column| pad_left(&of(column), column.width()));
            // A title wider than its columns: they stand under its beginning, not its end.
            pad_right(&cells.collect::<Vec<_>>().join("  "), group.width())
        };
        line(&self.corner, &mut |group| cells(group, &|column| column.heading.clone()));
        for (row, label) in self.labels.iter().enumerate() {
            line(label, &mut |group| cells(group, &|column| column.cells.get(row).cloned().unwrap_or_default()));
        }
    }

    /// The same as one Markdown table; a group's title stands before the headings of its columns.
    pub fn to_markdown(&self) -> String {
        let mut rows = vec![vec![self.corner.clone()], vec![":--".to_owned()]];
        rows.extend(self.labels.iter().map(|label| vec![label.clone()]));
        for group in &self.groups {
            for column in &group.columns {
                let heading = match (group.title.as_str(), column.heading.as_str()) {
                    ("", heading) => heading.to_owned(),
                    (title, "") => title.to_owned(),
                    (title, heading) => format!("{title}: {heading}"),
                };
                rows[0].push(heading);
                rows[1].push("--:".to_owned());
                for (row, cells) in rows[2..].iter_mut().enumerate() {
                    cells.push(column.cells.get(row).cloned().unwrap_or_default());
                }
            }
        }
        let escape = |cell: &String| cell.replace('|', "\\|").replace('\n', " ");
        let line =
            |cells: &Vec<String>| format!("| {} |\n", cells.iter().map(escape).collect::<Vec<_>>().join(" | "));
        rows.iter().map(line).collect()
    }
}

fn pad_right(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

fn pad_left(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(text.width())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(heading: &str, cells: &[&str]) -> Column {
        Column { heading: heading.to_owned(), cells: cells.iter().map(|cell| (*cell).to_owned()).collect() }
    }

    fn example() -> Table {
        Table {
            corner: "model".to_owned(),
            labels: vec!["base".to_owned(), "合并后".to_owned()],
            groups: vec![
                ColumnGroup {
                    title: "中文".to_owned(),
                    columns: vec![column("tokens/char", &["1.372", "0.8"]), column("cut", &["", "41.7 %"])],
                },
                ColumnGroup {
                    title: "a title that is wide".to_owned(),
                    columns: vec![column("acc", &["25.0", "7"])],
                },
            ],
        }
    }

    #[test]
    fn wide_characters_are_two_columns() {
        let expected = "\
                    中文                  a title that is wide
model    tokens/char     cut    acc
base           1.372           25.0
合并后           0.8  41.7 %      7
";
        let text = example().to_text(100);
        let expected = expected.trim_start_matches(' ').to_owned();
        assert_eq!(text.trim_start_matches(' '), expected);
    }

    #[test]
    fn what_does_not_fit_goes_below() {
        let text = example().to_text(40);
        assert_eq!(text.matches("合并后").count(), 2);
        assert!(text.lines().all(|line| line.width() <= 40), "{text}");
    }

    #[test]
    fn markdown_has_one_header_row() {
        let expected = "\
| model | 中文: tokens/char | 中文: cut | a title that is wide: acc |
| :-- | --: | --: | --: |
| base | 1.372 |  | 25.0 |
| 合并后 | 0.8 | 41.7 % | 7 |
";
        assert_eq!(example().to_markdown(), expected);
    }
}
