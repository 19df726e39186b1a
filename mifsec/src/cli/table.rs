//! Columns and units for people.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows of cells, each column as wide as its widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|h| (*h).to_owned()).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, without trailing spaces.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cell = |row: &Vec<String>| row.get(column).map_or(0, |c| c.chars().count());
            self.rows.iter().map(cell).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `6d 03:12`, `03:12:09`.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes, seconds) = (
        seconds / 86400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    if days > 0 {
        format!("{days}d {hours:02}:{minutes:02}")
    } else {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    }
}

/// `412 MB`.
pub(super) fn octets(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `11.2ms`.
pub(super) fn rtt(us: Option<u64>) -> String {
    us.map_or_else(|| "-".into(), |us| format!("{:.1}ms", us as f64 / 1000.0))
}

/// `0.3%`.
pub(super) fn loss(ppm: Option<u64>) -> String {
    ppm.map_or_else(
        || "-".into(),
        |ppm| format!("{:.1}%", ppm as f64 / 10_000.0),
    )
}

/// An event line as `time event key=value ...`.
pub(super) fn event(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    fields.remove("schema");
    let at = fields.remove("at_ms").and_then(|v| v.as_u64()).unwrap_or(0);
    let name = fields.remove("event");
    let mut out = format!(
        "{} {}",
        duration(at),
        name.as_ref().and_then(Value::as_str).unwrap_or("?")
    );
    for (key, value) in &fields {
        match value {
            Value::String(text) => {
                let _ = write!(out, " {key}={text}");
            }
            other => {
                let _ = write!(out, " {key}={other}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut table = Table::new(&["A", "LONGER", "C"]);
        table.row(vec!["wide cell".into(), "x".into(), String::new()]);
        assert_eq!(table.render(), "A          LONGER  C\nwide cell  x\n");
    }

    #[test]
    fn units_are_those_people_read() {
        assert_eq!(octets(999), "999 B");
        assert_eq!(octets(1_200_000), "1.2 MB");
        assert_eq!(duration(3_600_000 + 61_000), "01:01:01");
        assert_eq!(
            duration(6 * 86_400_000 + 3 * 3_600_000 + 12 * 60_000),
            "6d 03:12"
        );
        assert_eq!(rtt(Some(11_240)), "11.2ms");
        assert_eq!(loss(None), "-");
    }

    #[test]
    fn an_event_is_one_line_of_names_and_values() {
        let line = r#"{"schema":"mifsec.event/1","event":"path-down","at_ms":5000,"access":"wlan0","path":3}"#;
        assert_eq!(event(line), "00:00:05 path-down access=wlan0 path=3");
        assert_eq!(event("not json"), "not json");
    }
}
