//! What docs/ shows is what the program reads.

use std::{collections::BTreeSet, path::Path};

use portcullis_manager::configuration::{Configuration, from_smmuman, from_toml};

/// The text between fences of that language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn read(text: &str, topology: &str) -> Configuration {
    let named = |path: &Path| {
        assert_eq!(path, Path::new("topology.toml"));
        Ok(topology.to_owned())
    };
    from_toml("portcullis.toml", text, named).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[test]
fn the_operators_example_is_a_configuration() {
    let [text, topology] = blocks("operators.md", "toml").try_into().unwrap();
    let configuration = read(&text, &topology);
    configuration.check().unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(configuration.clients.len(), 1);
    // What is commented out is read as well.
    let all = text
        .replace("mode = \"require\"", "")
        .replace("\n# mode", "\nmode")
        .replace("# topology", "topology");
    let configuration =
        read(&all.replace("# [metrics]", "[metrics]").replace("# listen", "listen"), &topology);
    configuration.check().unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(configuration.firmware.units.len(), 1);
    assert_eq!(configuration.firmware.reserved.len(), 1);
    assert!(configuration.metrics.is_some());
}

/// The keys that a table knows, as the reader lists them when it meets one that it does not know.
fn known(head: &str) -> Vec<String> {
    let problems =
        from_toml("", &format!("{head}\nnonsense = 1\n"), |_| Err(std::io::ErrorKind::NotFound.into()));
    let problems = problems.unwrap_err().into_iter().map(|problem| problem.message);
    let message = problems.into_iter().find(|message| message.contains("`nonsense`")).unwrap();
    let (_, list) = message.split_once("expected").unwrap_or_else(|| panic!("{message}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_operators_example_shows_every_key() {
    let [example, _] = blocks("operators.md", "toml").try_into().unwrap();
    let mut shown: BTreeSet<(String, String)> = BTreeSet::new();
    let mut table = String::new();
    for line in example.lines() {
        let line = line.trim_start_matches("# ");
        if line.starts_with('[') {
            table = line.trim_start_matches('[').split(']').next().unwrap().to_owned();
            shown.insert((String::new(), table.split('.').next().unwrap().to_owned()));
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.insert((table.clone(), key.to_owned()));
        }
    }
    shown.insert(("client".into(), "limits".into()));
    let named = "[[client]]\nname = \"x\"\n";
    let heads = [
        ("", String::new()),
        ("service", "[service]".into()),
        ("journal", "[journal]".into()),
        ("metrics", "[metrics]".into()),
        ("firmware", "[firmware]".into()),
        ("accept", "[accept]".into()),
        ("operators", "[operators]".into()),
        ("alias", "[[alias]]".into()),
        ("client", "[[client]]".into()),
        ("client.limits", format!("{named}[client.limits]")),
        ("allow", "[[allow]]".into()),
    ];
    for (table, head) in heads {
        let keys = known(&head);
        assert!(!keys.is_empty(), "{table}");
        for key in keys {
            assert!(
                shown.contains(&(table.to_owned(), key.clone())),
                "[{table}] {key} is not in docs/operators.md"
            );
        }
    }
}

#[test]
fn the_boards_file_in_the_smmuman_page_is_understood() {
    let [board] = blocks("smmuman.md", "smmu").try_into().unwrap();
    let configuration = from_smmuman("board.smmu", &board).unwrap_or_else(|problems| panic!("{problems:?}"));
    configuration.check().unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(configuration.aliases.len(), 3);
    assert_eq!(configuration.allows.len(), 2);
    assert_eq!(configuration.firmware.reserved.len(), 1);
}

#[test]
fn the_clients_page_shows_the_example_that_is_compiled() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/examples/grant.rs");
    assert_eq!(blocks("clients.md", "rust"), [std::fs::read_to_string(path).unwrap()]);
}
