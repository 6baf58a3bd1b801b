//! JSON merge patches (RFC 7396): what leads from one document to the next, and back on the side that follows.

use serde_json::{Map, Value};

/// The JSON merge patch (RFC 7396) that leads from `old` to `new`, neither of which has a null in
/// it; none where they are equal.
pub fn patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut changes = Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        changes.insert(name.clone(), Value::Null);
    }
    for (name, value) in after {
        let change = match before.get(name) {
            Some(old) => patch(old, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            changes.insert(name.clone(), change);
        }
    }
    Some(Value::Object(changes))
}

/// `target` after `patch`, as RFC 7396 has it.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_leads_from_one_to_the_other_and_says_no_more_than_it_must() {
        let states = [
            json!({}),
            json!({"a": 1, "b": {"c": "x", "d": [1, 2]}}),
            json!({"a": 1, "b": {"c": "y", "d": [1, 2]}}),
            json!({"a": 1, "b": {"d": [2]}, "e": {}}),
            json!({"a": {"b": 1}, "e": [{}]}),
            json!({"a": {"b": {}}, "e": "x"}),
        ];
        for old in &states {
            for new in &states {
                match patch(old, new) {
                    Some(patch) => {
                        let mut merged = old.clone();
                        merge(&mut merged, patch.clone());
                        assert_eq!(merged, *new, "{old} {patch}");
                    }
                    None => assert_eq!(old, new),
                }
            }
        }
        assert_eq!(patch(&states[1], &states[2]), Some(json!({"b": {"c": "y"}})));
    }

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn merging_is_as_the_rfc_has_it() {
        for (target, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut document = target.clone();
            merge(&mut document, patch.clone());
            assert_eq!(document, merged, "{target} {patch}");
        }
    }
}
