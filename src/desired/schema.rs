//! The JSON Schema (draft 2020-12) of the desired files, and the tables of their reference: made of
//! the same table that the decoder uses.

use serde_json::{Value, json};

use super::form::Form;
use super::keys::{App, Cluster, LoadBalancer, Notify, Rollout, Settle};
use super::table::{Field, Need, Table};

/// Which of the two kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// `app.toml`
    App,
    /// A cluster's file.
    Cluster,
}

/// The schema of one kind of file. It refers to nothing outside of itself, and inside of itself by
/// nesting alone, which every editor understands.
pub fn schema(document: Document) -> Value {
    let mut schema = App::schema();
    // Either may be written, in `app.toml` and over it; in one place both would contradict.
    schema["properties"]["load_balancer"]["not"] = json!({"required": ["expect", "nodes"]});
    match document {
        Document::App => schema["title"] = "evenkeel: app.toml".into(),
        Document::Cluster => {
            let own = Cluster::schema();
            if let (Some(all), Some(own)) =
                (schema["properties"].as_object_mut(), own["properties"].as_object())
            {
                all.extend(own.clone());
            }
            schema["description"] = own["description"].clone();
            schema["title"] = "evenkeel: a cluster's file".into();
            schema["required"] = json!(["revision"]);
            schema["oneOf"] = json!([{"required": ["expect"]}, {"required": ["nodes"]}]);
        }
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema
}

/// The reference of all keys, as Markdown: a heading and a table for each table of keys.
pub fn reference() -> String {
    [
        ("Keys of a cluster's file", Cluster::fields()),
        ("Keys of `app.toml`, and of a cluster's file", App::fields()),
        ("`[load_balancer]`", LoadBalancer::fields()),
        ("`[rollout]`", Rollout::fields()),
        ("`[settle]`", Settle::fields()),
        ("`[notify]`", Notify::fields()),
    ]
    .into_iter()
    .map(|(title, fields)| {
        let rows: String = fields.iter().map(row).collect();
        format!("### {title}\n\n| key | must be | default | meaning |\n|---|---|---|---|\n{rows}")
    })
    .collect::<Vec<_>>()
    .join("\n")
}

fn row(field: &Field) -> String {
    let default = match field.need {
        Need::Required => "required".to_owned(),
        Need::Optional => "none".to_owned(),
        Need::Default("{}") => "its keys' defaults".to_owned(),
        Need::Default(value) => format!("`{value}`"),
    };
    let doc = field.doc.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("| `{}` | {} | {default} | {doc} |\n", field.key, field.wanted)
}

#[cfg(test)]
mod tests {
    use super::super::table::Reader;
    use super::*;

    /// A default that does not parse would leave its key without a value.
    #[test]
    fn every_default_is_a_value_of_its_key() {
        fn check<T: Table>() {
            for field in T::fields() {
                if let Need::Default(value) = field.need {
                    let text = format!("{} = {value}", field.key);
                    let (document, errors) = toml::de::DeTable::parse_recoverable(&text);
                    assert!(errors.is_empty(), "{text}: {errors:?}");
                    let mut flaws = Vec::new();
                    let mut reader = Reader::new(0, &mut flaws);
                    for (key, value) in document.get_ref() {
                        assert!(T::default().read_key(key, value, &mut reader), "{text}");
                    }
                    assert!(flaws.is_empty(), "{text}: {flaws:?}");
                }
            }
        }
        check::<App>();
        check::<Cluster>();
        check::<LoadBalancer>();
        check::<Rollout>();
        check::<Settle>();
        check::<Notify>();
    }
}
