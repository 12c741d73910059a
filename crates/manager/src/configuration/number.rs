//! Numbers as people write them.

/// Why a number is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NumberError {
    /// No digits, or something that is none.
    #[error("`{0}` is not a number")]
    NotANumber(String),
    /// More than 64 bits.
    #[error("`{0}` does not fit in 64 bits")]
    TooLarge(String),
}

/// The number that `text` spells in `radix`, unless it says another: `0x` hexadecimal, `0d` decimal; with K, M, G or T for
/// powers of 1024. `_` may stand between digits.
pub(super) fn number(text: &str, radix: u32) -> Result<u64, NumberError> {
    let not = || NumberError::NotANumber(text.to_owned());
    let trimmed = text.trim();
    let (digits, radix) = match trimmed.get(..2) {
        Some("0x" | "0X") => (&trimmed[2..], 16),
        Some("0d" | "0D") if radix == 16 => (&trimmed[2..], 10),
        _ => (trimmed, radix),
    };
    let (digits, shift) = match digits.as_bytes().last() {
        Some(b'K' | b'k') => (&digits[..digits.len() - 1], 10),
        Some(b'M' | b'm') => (&digits[..digits.len() - 1], 20),
        Some(b'G' | b'g') => (&digits[..digits.len() - 1], 30),
        Some(b'T' | b't') => (&digits[..digits.len() - 1], 40),
        _ => (digits, 0),
    };
    // With a multiplier, smmuman's numbers are decimal unless they say otherwise.
    let radix = if shift > 0 && radix == 16 && !trimmed.starts_with("0x") { 10 } else { radix };
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(not());
    }
    let large = || NumberError::TooLarge(text.to_owned());
    let value = u64::from_str_radix(&digits, radix).map_err(|_| large())?;
    value.checked_mul(1 << shift).ok_or_else(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    // From the equivalences that the QNX documentation gives for smmuman's notation.
    #[test]
    fn smmuman_notation() {
        for text in ["0x4000", "4000", "0d16384"] {
            assert_eq!(number(text, 16), Ok(0x4000), "{text}");
        }
        for text in ["4096", "0x1000"] {
            assert_eq!(number(text, 10), Ok(4096), "{text}");
        }
        assert_eq!(number("4K", 16), Ok(0x1000));
        assert_eq!(number("1k", 10), Ok(0x400));
        assert_eq!(number("0x10M", 16), Ok(16 << 20));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "K", "0x", "12g3", "-1", "0xzz"] {
            assert_eq!(number(text, 10), Err(NumberError::NotANumber(text.to_owned())), "{text}");
        }
        assert_eq!(number("16777216T", 10), Err(NumberError::TooLarge("16777216T".to_owned())));
        assert_eq!(
            number("18446744073709551616", 10),
            Err(NumberError::TooLarge("18446744073709551616".into()))
        );
    }
}
