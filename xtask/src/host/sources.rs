//! The entry for another Debian suite, such as a release's backports, derived from the entry that the machine already has for its
//! own release.

/// An entry for apt, in the form that its file name must announce.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Deb822, for a `.sources` file.
    Paragraph(String),
    /// One line, for a `.list` file.
    Line(String),
}

/// From the text of a `.sources` file (deb822, sources.list(5)): the paragraph that names `release`, changed to name
/// `suite`.
pub(crate) fn from_paragraphs(text: &str, release: &str, suite: &str) -> Option<Entry> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty())
        .find(|paragraph| {
            let has = |name: &str, word: &str| field(paragraph, name).any(|value| value == word);
            has("types", "deb") && has("suites", release) && !has("enabled", "no")
        })
        .map(|paragraph| {
            let mut entry = String::from("Types: deb\n");
            let mut keep = false;
            for line in paragraph {
                if !line.starts_with([' ', '\t']) {
                    keep =
                        !["types:", "suites:"].iter().any(|name| line.to_ascii_lowercase().starts_with(name));
                }
                if keep {
                    entry.push_str(line);
                    entry.push('\n');
                }
            }
            Entry::Paragraph(format!("{entry}Suites: {suite}\n"))
        })
}

/// From the text of a `.list` file (one line an entry): the line that names `release`, changed to name `suite`.
pub(crate) fn from_lines(text: &str, release: &str, suite: &str) -> Option<Entry> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb")?;
        if !rest.starts_with([' ', '\t']) {
            return None;
        }
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inside) => {
                let (options, after) = inside.split_once(']')?;
                (format!("[{options}] "), after)
            }
            None => (String::new(), rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, named) = (words.next()?, words.next()?);
        let components = words.take_while(|word| !word.starts_with('#')).collect::<Vec<_>>().join(" ");
        (named == release).then(|| Entry::Line(format!("deb {options}{uri} {suite} {components}\n")))
    })
}

/// The words of a field, its continuation lines included.
fn field<'a>(paragraph: &'a [&'a str], name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    paragraph.iter().flat_map(move |line| {
        let mut value = "";
        if line.starts_with([' ', '\t']) {
            value = if inside { line } else { "" };
        } else if let Some((key, rest)) = line.split_once(':') {
            inside = key.trim().eq_ignore_ascii_case(name);
            value = if inside { rest } else { "" };
        }
        value.split_whitespace()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraph_keeps_its_mirror_and_key() {
        let text = "\
Types: deb deb-src
# http://snapshot.example/archive/debian/20250520T000000Z
URIs: http://mirror.example/archive/debian/20250520T000000Z
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
";
        let expected = "\
Types: deb
URIs: http://mirror.example/archive/debian/20250520T000000Z
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Suites: bookworm-backports
";
        assert_eq!(
            from_paragraphs(text, "bookworm", "bookworm-backports"),
            Some(Entry::Paragraph(expected.into()))
        );
        assert_eq!(from_paragraphs(text, "trixie", "trixie-backports"), None);
    }

    #[test]
    fn continuation_lines_belong_to_their_field() {
        let text = "Types: deb\nURIs: http://mirror.example/debian\nSuites:\n bookworm\n bookworm-updates\nSigned-By:\n -----BEGIN\n .\n key\n";
        let expected = "Types: deb\nURIs: http://mirror.example/debian\nSigned-By:\n -----BEGIN\n .\n key\nSuites: bookworm-backports\n";
        assert_eq!(
            from_paragraphs(text, "bookworm", "bookworm-backports"),
            Some(Entry::Paragraph(expected.into()))
        );
    }

    #[test]
    fn disabled_paragraph_is_passed_over() {
        let text = "Types: deb\nEnabled: no\nURIs: http://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(from_paragraphs(text, "bookworm", "bookworm-backports"), None);
    }

    #[test]
    fn line_keeps_its_options_and_mirror() {
        let text = "\
# deb http://other.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian/ bookworm main contrib # note
";
        let expected = "deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian/ bookworm-backports main contrib\n";
        assert_eq!(from_lines(text, "bookworm", "bookworm-backports"), Some(Entry::Line(expected.into())));
        let plain = "deb http://mirror.example/debian bookworm main\n";
        assert_eq!(
            from_lines(plain, "bookworm", "bookworm-backports"),
            Some(Entry::Line("deb http://mirror.example/debian bookworm-backports main\n".into()))
        );
    }
}
