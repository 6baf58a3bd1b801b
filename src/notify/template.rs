//! Templates: text with `{name}` where a value goes in, and JSON made of such texts.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// A parsed template. Values go in after parsing and are never parsed themselves, so that a `{` in
/// a value is just a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Piece>);

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Itself.
    Literal(String),
    /// The value of that name.
    Value(String),
}

/// A value for a placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A number; stays one where it is the whole of a JSON value.
    Number(i64),
}

impl Value<'_> {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text.into_owned(),
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Template {
    /// Reads `{name}` as a placeholder, and `{{` and `}}` as braces.
    ///
    /// # Errors
    /// A sentence with what is wrong: a brace without its other half, or a name that is none.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            literal.push_str(&rest[..brace]);
            rest = &rest[brace..];
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                literal.push_str(&rest[..1]);
                rest = after;
                continue;
            }
            let (name, after) = rest
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'))
                .ok_or("a brace lacks its other half; write {{ or }} for a brace that is meant")?;
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if name.is_empty() || !name.chars().all(good) {
                return Err(format!(
                    "{{{name}}} is no placeholder: names are lower case letters, digits and _; \
                     write {{{{ and }}}} for braces that are meant"
                ));
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Value(name.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template(pieces))
    }

    /// A template without placeholders, whatever is in `text`.
    pub(super) fn literal(text: String) -> Template {
        Template(vec![Piece::Literal(text)])
    }

    /// The names that it uses.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Value(name) => Some(name.as_str()),
        })
    }

    /// The texts that it holds.
    pub(super) fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Value(_) => None,
        })
    }

    /// The text with the values in it; `None` if a value is missing.
    pub(super) fn render<'v>(&self, value: &impl Fn(&str) -> Option<Value<'v>>) -> Option<String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Value(name) => text.push_str(&value(name)?.into_text()),
            }
        }
        Some(text)
    }
}

/// A JSON document whose strings are templates. Its keys are literal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    /// A string.
    Text(Template),
    /// An object.
    Object(Vec<(String, Json)>),
    /// An array.
    Array(Vec<Json>),
    /// A number, a boolean or null.
    Other(serde_json::Value),
}

impl Json {
    /// Parses the strings of `value`.
    ///
    /// # Errors
    /// See [`Template::parse`].
    pub(super) fn parse(value: &serde_json::Value) -> Result<Json, String> {
        Ok(match value {
            serde_json::Value::String(text) => Json::Text(Template::parse(text)?),
            serde_json::Value::Array(items) => {
                Json::Array(items.iter().map(Json::parse).collect::<Result<_, _>>()?)
            }
            serde_json::Value::Object(members) => Json::Object(
                members
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), Json::parse(value)?)))
                    .collect::<Result<_, String>>()?,
            ),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
                Json::Other(value.clone())
            }
        })
    }

    /// Collects the names that it uses.
    pub(super) fn names<'a>(&'a self, into: &mut BTreeSet<&'a str>) {
        match self {
            Json::Text(template) => into.extend(template.names()),
            Json::Object(members) => members.iter().for_each(|(_, value)| value.names(into)),
            Json::Array(items) => items.iter().for_each(|item| item.names(into)),
            Json::Other(_) => {}
        }
    }

    /// The document with the values in it. What lacks a value is left out.
    pub(super) fn render<'v>(
        &self,
        value: &impl Fn(&str) -> Option<Value<'v>>,
    ) -> Option<serde_json::Value> {
        Some(match self {
            Json::Text(Template(pieces)) if let [Piece::Value(name)] = pieces.as_slice() => {
                match value(name)? {
                    Value::Text(text) => text.into(),
                    Value::Number(number) => number.into(),
                }
            }
            Json::Text(template) => template.render(value)?.into(),
            Json::Object(members) => members
                .iter()
                .filter_map(|(key, member)| Some((key.clone(), member.render(value)?)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Json::Array(items) => {
                items.iter().filter_map(|item| item.render(value)).collect::<Vec<_>>().into()
            }
            Json::Other(other) => other.clone(),
        })
    }
}

/// Cuts `units`, each of which stays whole, to `max` as measured by `size`, with an ellipsis for
/// what was lost.
pub(super) fn fit(units: Vec<Cow<'_, str>>, max: usize, size: impl Fn(&str) -> usize) -> String {
    const ELLIPSIS: &str = "…";
    if units.iter().map(|unit| size(unit)).sum::<usize>() <= max {
        return units.concat();
    }
    let room = max.saturating_sub(size(ELLIPSIS));
    let mut used = 0;
    let kept = units.iter().take_while(|unit| {
        used += size(unit);
        used <= room
    });
    let mut text: String = kept.map(Cow::as_ref).collect();
    text.push_str(ELLIPSIS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<Value<'static>> {
        match name {
            "a" => Some(Value::Text("{b}\"".into())),
            "n" => Some(Value::Number(-1)),
            _ => None,
        }
    }

    #[test]
    fn templates_are_parsed_once() {
        for (template, text) in [
            ("", Some("")),
            ("x", Some("x")),
            ("<{a}>", Some("<{b}\">")),
            ("{{a}} {n}", Some("{a} -1")),
            ("{missing}", None),
        ] {
            let rendered = Template::parse(template).unwrap().render(&value);
            assert_eq!(rendered.as_deref(), text, "{template}");
        }
        for template in ["{", "}", "{a", "a}", "{}", "{A}", "{a b}", "{a{b}}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }

    #[test]
    fn json_keeps_its_shape_and_leaves_out_what_is_missing() {
        let template = serde_json::json!({
            "text": "{a}", "number": "{n}", "in_text": "n={n}", "gone": "{missing}",
            "list": ["{a}", "{missing}", true], "deep": {"gone": "x{missing}"}, "{a}": 1
        });
        assert_eq!(
            Json::parse(&template).unwrap().render(&value).unwrap(),
            serde_json::json!({
                "text": "{b}\"", "number": -1, "in_text": "n=-1",
                "list": ["{b}\"", true], "deep": {}, "{a}": 1
            })
        );
    }

    #[test]
    fn cuts_keep_units_whole() {
        let cut = |units: &[&'static str], max| {
            fit(units.iter().map(|unit| Cow::Borrowed(*unit)).collect(), max, str::len)
        };
        assert_eq!(cut(&["a", "&amp;"], 6), "a&amp;");
        assert_eq!(cut(&["a", "&amp;"], 5), "a…");
        assert_eq!(cut(&["ä", "ö", "ü"], 6), "äöü");
        assert_eq!(cut(&["ä", "ö", "ü"], 5), "ä…");
    }
}
