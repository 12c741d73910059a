//! A line of the log without what the log's carrier put before it.

use std::time::Duration;

use super::MAX_LINE;

/// A line and when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line<'a> {
    /// The message.
    pub(super) text: &'a str,
    /// When it was written, since boot.
    pub(super) since_boot: Option<Duration>,
}

/// The messages in `text`: one, or several where one record of the log holds several lines.
///
/// `/dev/kmsg` writes a line feed inside a message as `\x0a`, and puts its dictionary (` SUBSYSTEM=…`) on lines of its own that
/// begin with a space.
pub(super) fn split(text: &str) -> impl Iterator<Item = Line<'_>> {
    let text = cut(text);
    let mut since_boot = None;
    text.split('\n')
        .flat_map(|part| part.split("\\x0a"))
        .map(move |part| {
            let (when, text) = without_prefix(part.trim_end());
            since_boot = when.or(since_boot);
            Line { text, since_boot }
        })
        .filter(|line| !line.text.is_empty())
}

/// At most [`MAX_LINE`] bytes of `text`.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LINE)]
}

fn without_prefix(text: &str) -> (Option<Duration>, &str) {
    if let Some((when, message)) = kmsg(text) {
        return (Some(when), message);
    }
    // journalctl's short form, and syslog's: "Nov 21 01:02:03 host kernel: message".
    let text = text.split_once(" kernel: ").map_or(text, |(_, message)| message);
    // "<3>" before dmesg's time is the priority, with --raw.
    let text = text
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .filter(|(priority, _)| priority.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(text, |(_, message)| message);
    match dmesg(text) {
        Some((when, message)) => (Some(when), message),
        None => (None, text),
    }
}

/// `priority,sequence,microseconds,flags[,…];message`
fn kmsg(text: &str) -> Option<(Duration, &str)> {
    let (prefix, message) = text.split_once(';')?;
    let mut fields = prefix.split(',');
    fields.next()?.parse::<u32>().ok()?;
    fields.next()?.parse::<u64>().ok()?;
    let when = fields.next()?.parse().ok()?;
    fields.next()?;
    Some((Duration::from_micros(when), message))
}

/// `[   12.345678] message`, with or without the writer's `[  T123]` behind it.
fn dmesg(text: &str) -> Option<(Duration, &str)> {
    let (time, message) = text.strip_prefix('[')?.split_once(']')?;
    let (seconds, fraction) = time.trim().split_once('.')?;
    if fraction.len() != 6 {
        return None;
    }
    let when = Duration::from_secs(seconds.parse().ok()?)
        .checked_add(Duration::from_micros(fraction.parse().ok()?))?;
    let message = message.trim_start();
    let message = message
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        .filter(|(writer, _)| {
            let writer = writer.trim_start();
            (writer.starts_with('T') || writer.starts_with('C'))
                && writer.len() > 1
                && writer[1..].bytes().all(|byte| byte.is_ascii_digit())
        })
        .map_or(message, |(_, rest)| rest.trim_start());
    Some((when, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (Option<u128>, &str) {
        let line = split(text).next().expect("a line");
        (line.since_boot.map(|when| when.as_micros()), line.text)
    }

    #[test]
    fn every_carrier_is_taken_off() {
        assert_eq!(one("3,812,5274121,-;DMAR: x"), (Some(5_274_121), "DMAR: x"));
        assert_eq!(one("3,812,5274121,-,caller=T1;DMAR: x"), (Some(5_274_121), "DMAR: x"));
        assert_eq!(one("[    5.274121] DMAR: x"), (Some(5_274_121), "DMAR: x"));
        assert_eq!(one("<3>[    5.274121][  T142] DMAR: x"), (Some(5_274_121), "DMAR: x"));
        assert_eq!(one("Nov 21 01:02:03 host kernel: DMAR: x"), (None, "DMAR: x"));
        assert_eq!(one("Nov 21 01:02:03 host kernel: [    5.274121] DMAR: x"), (Some(5_274_121), "DMAR: x"));
        assert_eq!(one("DMAR: [DMA Read] x"), (None, "DMAR: [DMA Read] x"));
    }

    #[test]
    fn a_record_of_several_lines_is_several_lines() {
        let text: Vec<_> = split("3,1,5,-;one\\x0atwo\n SUBSYSTEM=pci\n").map(|line| line.text).collect();
        assert_eq!(text, ["one", "two", " SUBSYSTEM=pci"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let text = "ä".repeat(MAX_LINE);
        let line = split(&text).next().expect("a line");
        assert!(line.text.len() <= MAX_LINE && line.text.chars().all(|letter| letter == 'ä'));
    }
}
