//! A checked way to reach a recipient: row and entry made one, every placeholder accounted for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use reqwest::Url;

use crate::model::{Message, RecipientName};

use super::config::{Entry, Limits, Meaning, Row, Scalar, Scale, Unit};
use super::pace::{Pace, Rate};
use super::secrets::Secrets;
use super::template::{Json, Piece, Template, Value, fit};

/// What a message offers to templates.
const FIELDS: [&str; 16] = [
    "advice",
    "app",
    "at",
    "cause",
    "change",
    "cluster",
    "commit",
    "happened",
    "key",
    "link",
    "priority",
    "revision_from",
    "revision_to",
    "summary",
    "text",
    "title",
];

/// A token or a password is far shorter; more is the wrong file.
const PARAMETER_FILE_BYTES_MAX: u64 = 4096;

/// Slower than this is no service for messages.
const EVERY_MS_MAX: u64 = 3_600_000;

/// One way to reach one recipient.
pub(super) struct Target {
    pub(super) recipient: RecipientName,
    pub(super) service: String,
    /// Scheme, host and port: what may be said of the URL.
    pub(super) endpoint: String,
    pub(super) url: Template,
    pub(super) method: reqwest::Method,
    pub(super) headers: BTreeMap<String, Template>,
    pub(super) body: Body,
    pub(super) answers: BTreeMap<u16, Meaning>,
    pub(super) secrets: Secrets,
    /// How often it may be asked, if that is bounded.
    pub(super) pace: Pace,
    title: Template,
    text: Template,
    parameters: BTreeMap<String, Scalar>,
    priority: Scale,
    limits: Limits,
    replace: BTreeMap<char, String>,
}

/// What is sent.
pub(super) enum Body {
    Empty,
    Json(Json),
    Form(BTreeMap<String, Template>),
    Text(Template),
    Mail(Box<MailTemplates>),
}

/// The parts of a mail.
pub(super) struct MailTemplates {
    pub(super) from: Template,
    pub(super) to: Template,
    pub(super) subject: Template,
    pub(super) text: Template,
    pub(super) username: Option<Template>,
    pub(super) password: Option<Template>,
}

impl Target {
    /// Checks `entry` against `row` and makes one of both. Reads the files that the entry names.
    ///
    /// # Errors
    /// A sentence with what is wrong, without values.
    pub(super) fn new(
        recipient: &RecipientName,
        entry: &Entry,
        row: &Row,
    ) -> Result<Target, String> {
        let Entry { service, own, parameters } = entry.clone();
        let mut given = read_files(parameters)?;
        let url_from_file = given.remove("url").map(text_of);
        let row = row.clone().with(own);
        let url = match (url_from_file, &row.url) {
            (Some(text), _) => Template::literal(text),
            (None, Some(text)) => parse("url", text)?,
            (None, None) => return Err(format!("service {service:?} needs `url` or `url_file`")),
        };
        let paced = |rate: &Rate| rate.burst > 0 && (1..=EVERY_MS_MAX).contains(&rate.every_ms);
        if row.rate.as_ref().is_some_and(|rate| !paced(rate)) {
            return Err("`rate` wants a `burst` of 1 or more, and an `every` of 1ms to 1h".into());
        }
        let mut target = Target {
            recipient: recipient.clone(),
            endpoint: String::new(),
            url,
            method: method(row.method.as_deref())?,
            headers: parse_all("headers", &row.headers)?,
            body: Body::new(&row)?,
            answers: answers(&row.answers)?,
            secrets: Secrets::default(),
            pace: Pace::new(row.rate.unwrap_or(Rate::ANY)),
            title: parse("title", row.title.as_deref().unwrap_or("{title}"))?,
            text: parse("text", row.text.as_deref().unwrap_or("{text}"))?,
            parameters: BTreeMap::new(),
            priority: row.priority.unwrap_or_default(),
            limits: row.limits.unwrap_or_default(),
            replace: row.replace,
            service,
        };
        target.check_names(&given, &row.defaults, &row.optional)?;
        target.secrets = Secrets::new(given.values().map(|value| text_of(value.clone())));
        target.parameters = row.defaults.into_iter().chain(given).collect();
        target.check_url()?;
        target.check_headers()?;
        if let Body::Mail(mail) = &target.body {
            super::mail::check_addresses(&target.sample(&mail.from), &target.sample(&mail.to))?;
        }
        Ok(target)
    }

    /// Every placeholder has a value, and every value a placeholder.
    fn check_names(
        &self,
        given: &BTreeMap<String, Scalar>,
        defaults: &BTreeMap<String, Scalar>,
        optional: &BTreeSet<String>,
    ) -> Result<(), String> {
        let service = &self.service;
        // In these a missing value leaves nothing that could be left out.
        let mut whole: BTreeSet<&str> = self.url.names().collect();
        whole.extend(self.title.names().chain(self.text.names()));
        let mut parts: BTreeSet<&str> = self.headers.values().flat_map(Template::names).collect();
        match &self.body {
            Body::Text(template) => whole.extend(template.names()),
            Body::Mail(mail) => {
                for template in [&mail.from, &mail.to, &mail.subject, &mail.text] {
                    whole.extend(template.names());
                }
                let login = [&mail.username, &mail.password];
                parts.extend(login.into_iter().flatten().flat_map(Template::names));
            }
            Body::Json(json) => json.names(&mut parts),
            Body::Form(form) => parts.extend(form.values().flat_map(Template::names)),
            Body::Empty => {}
        }
        let known = |name: &str| {
            FIELDS.contains(&name) || given.contains_key(name) || defaults.contains_key(name)
        };
        let missing = whole
            .iter()
            .find(|name| !known(name))
            .or_else(|| parts.iter().find(|name| !known(name) && !optional.contains(**name)));
        if let Some(name) = missing {
            return Err(format!(
                "service {service:?} uses {{{name}}}, which is neither given here, as `{name}` or \
                 `{name}_file`, nor a field of the message ({})",
                FIELDS.join(", ")
            ));
        }
        let mut parameters: BTreeSet<&str> = whole.union(&parts).copied().collect();
        parameters.retain(|name| !FIELDS.contains(name));
        match given.keys().find(|name| !parameters.contains(name.as_str())) {
            Some(name) if FIELDS.contains(&name.as_str()) => {
                Err(format!("`{name}` is a field of the message and cannot be given"))
            }
            Some(name) => {
                let list: Vec<&str> = parameters.into_iter().collect();
                let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
                Err(format!(
                    "`{name}` is neither a field of a row nor a parameter of service {service:?}, \
                     whose parameters are: {list}"
                ))
            }
            None => Ok(()),
        }
    }

    /// The URL is one, has the scheme that the body wants, and no login in the clear.
    fn check_url(&mut self) -> Result<(), String> {
        // As it will be sent, with `x` for what only a message can say.
        let value = |name: &str| match self.parameters.get(name) {
            Some(value) => Some(Value::Text(percent(&text_of(value.clone())).into())),
            None => Some(Value::Text("x".into())),
        };
        let url = self
            .url
            .render(&value)
            .and_then(|text| text.parse::<Url>().ok())
            .filter(Url::has_host)
            .ok_or("`url` is not a URL with a scheme and a host")?;
        let mail = matches!(self.body, Body::Mail(_));
        let schemes = if mail { ["smtp", "smtps"] } else { ["http", "https"] };
        if !schemes.contains(&url.scheme()) {
            let [one, other] = schemes;
            return Err(format!(
                "`url` begins with {}://; this service wants {one}:// or {other}://",
                url.scheme()
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let instead =
                if mail { "`username` and `password`" } else { "a header `Authorization`" };
            return Err(format!("`url` holds a login; give it as {instead}"));
        }
        if mail {
            super::mail::check_url(&url, self.logs_in())?;
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        self.endpoint = format!("{}://{host}{port}", url.scheme());
        self.secrets.add_url(&url);
        Ok(())
    }

    /// Header names are names. What stands literally in a header may be a secret.
    fn check_headers(&mut self) -> Result<(), String> {
        for (name, template) in &self.headers {
            if reqwest::header::HeaderName::try_from(name).is_err() {
                return Err(format!("{name:?} is not the name of a header"));
            }
            for literal in template.literals() {
                self.secrets.add_header(literal);
            }
        }
        Ok(())
    }

    /// A template's text with `x` for what only a message can say, to check the rest by.
    fn sample(&self, template: &Template) -> String {
        let value = |name: &str| match self.parameters.get(name) {
            Some(value) => Some(value_of(value)),
            None => Some(Value::Text("x".into())),
        };
        template.render(&value).unwrap_or_default()
    }

    fn logs_in(&self) -> bool {
        match &self.body {
            Body::Mail(mail) => mail
                .username
                .as_ref()
                .is_some_and(|t| t.names().all(|name| self.parameters.contains_key(name))),
            Body::Empty | Body::Json(_) | Body::Form(_) | Body::Text(_) => false,
        }
    }

    /// The values of `message` and of the parameters, for this target's templates.
    pub(super) fn fill<'a>(&'a self, message: &'a Message) -> Filled<'a> {
        let raw = |name: &str| self.raw(message, name);
        let size = |text: &str| match self.limits.unit {
            Unit::Bytes => text.len(),
            Unit::Characters => text.chars().count(),
        };
        let title = fit(self.units(&self.title, &raw), self.limits.title, size);
        let text = fit(self.units(&self.text, &raw), self.limits.text, size);
        Filled { target: self, message, title, text }
    }

    /// A value as the message or the entry has it.
    fn raw<'a>(&'a self, message: &'a Message, name: &str) -> Option<Value<'a>> {
        let text = |text: &'a str| Some(Value::Text(text.into()));
        match name {
            "advice" => text(&message.advice),
            "app" => text(message.app.as_str()),
            "at" => Some(Value::Text(message.at.to_string().into())),
            "cause" => text(message.cause.as_str()),
            "change" => Some(Value::Text(message.change().into())),
            "cluster" => text(message.cluster.as_str()),
            "commit" => text(&message.commit),
            "happened" => text(&message.happened),
            "link" => text(&message.link),
            "key" => text(&message.key.0),
            "priority" => Some(value_of(self.priority.of(message.priority))),
            "revision_from" => text(message.revision_from.as_ref().map_or("", |r| r.as_str())),
            "revision_to" => text(message.revision_to.as_str()),
            "summary" => Some(Value::Text(message.summary().into())),
            "text" => Some(Value::Text(message.text().into())),
            "title" => text(&message.title),
            // What a tap opens is the page, where nothing else is given.
            "click" if !self.parameters.contains_key(name) => {
                Some(&message.link).filter(|link| !link.is_empty()).and_then(|link| text(link))
            }
            parameter => self.parameters.get(parameter).map(value_of),
        }
    }

    /// A template's text in units that must stay whole: characters, or what replaces them.
    fn units<'a>(
        &'a self,
        template: &'a Template,
        value: &impl Fn(&str) -> Option<Value<'a>>,
    ) -> Vec<Cow<'a, str>> {
        let mut units = Vec::new();
        for piece in &template.0 {
            match piece {
                Piece::Literal(text) => {
                    units.extend(text.chars().map(|c| Cow::Owned(c.to_string())));
                }
                Piece::Value(name) => match value(name) {
                    Some(Value::Text(text)) => units.extend(text.chars().map(|c| self.spell(c))),
                    Some(Value::Number(number)) => units.push(number.to_string().into()),
                    None => {}
                },
            }
        }
        units
    }

    /// How the body spells a character of a value.
    fn spell(&self, c: char) -> Cow<'_, str> {
        match self.replace.get(&c) {
            Some(other) => Cow::Borrowed(other),
            None => Cow::Owned(c.to_string()),
        }
    }
}

/// A target with the values of one message.
pub(super) struct Filled<'a> {
    target: &'a Target,
    message: &'a Message,
    title: String,
    text: String,
}

impl Filled<'_> {
    /// The text of a URL.
    pub(super) fn url(&self) -> Option<String> {
        self.target.url.render(&|name| {
            Some(Value::Text(match self.value(name)? {
                Value::Text(text) => percent(&text).into(),
                Value::Number(number) => number.to_string().into(),
            }))
        })
    }

    /// The text of a header: no control characters, so that a value cannot end the line.
    pub(super) fn line(&self, template: &Template) -> Option<String> {
        let text = template.render(&|name| self.value(name))?;
        Some(text.chars().filter(|c| !c.is_control()).collect())
    }

    /// The text of a part of the body.
    pub(super) fn text(&self, template: &Template) -> Option<String> {
        template.render(&|name| self.spelled(name))
    }

    /// A JSON body.
    pub(super) fn json(&self, json: &Json) -> Option<serde_json::Value> {
        json.render(&|name| self.spelled(name))
    }

    fn value(&self, name: &str) -> Option<Value<'_>> {
        match name {
            "title" => Some(Value::Text(self.title.as_str().into())),
            "text" => Some(Value::Text(self.text.as_str().into())),
            other => self.target.raw(self.message, other),
        }
    }

    fn spelled(&self, name: &str) -> Option<Value<'_>> {
        let value = self.value(name)?;
        // Title and text are spelled already, and parameters are the operator's own words.
        let ours = FIELDS.contains(&name) && !["title", "text"].contains(&name);
        Some(match value {
            Value::Text(text) if ours => {
                Value::Text(text.chars().map(|c| self.target.spell(c)).collect::<String>().into())
            }
            value => value,
        })
    }
}

impl Body {
    fn new(row: &Row) -> Result<Body, String> {
        let mut bodies = Vec::new();
        if let Some(json) = &row.json {
            bodies.push(Body::Json(Json::parse(json).map_err(|why| format!("`json`: {why}"))?));
        }
        if let Some(form) = &row.form {
            bodies.push(Body::Form(parse_all("form", form)?));
        }
        if let Some(text) = &row.body {
            bodies.push(Body::Text(parse("body", text)?));
        }
        if let Some(mail) = &row.mail {
            let optional =
                |text: &Option<String>| text.as_ref().map(|t| parse("mail", t)).transpose();
            bodies.push(Body::Mail(Box::new(MailTemplates {
                from: parse("mail.from", &mail.from)?,
                to: parse("mail.to", &mail.to)?,
                subject: parse("mail.subject", &mail.subject)?,
                text: parse("mail.text", &mail.text)?,
                username: optional(&mail.username)?,
                password: optional(&mail.password)?,
            })));
        }
        match bodies.len() {
            0 | 1 => Ok(bodies.pop().unwrap_or(Body::Empty)),
            _ => Err("only one of `json`, `form`, `body` and `mail` can be sent".to_owned()),
        }
    }
}

/// Replaces every `NAME_file` by NAME with what the file holds, less white space around it.
fn read_files(parameters: BTreeMap<String, Scalar>) -> Result<BTreeMap<String, Scalar>, String> {
    let mut given = BTreeMap::new();
    for (key, value) in parameters {
        let (name, value) = match key.strip_suffix("_file") {
            Some(name) => (name.to_owned(), Scalar::Text(read_file(&key, &text_of(value))?)),
            None => (key, value),
        };
        if given.insert(name.clone(), value).is_some() {
            return Err(format!("`{name}` and `{name}_file` are both given; one is enough"));
        }
    }
    Ok(given)
}

fn read_file(key: &str, path: &str) -> Result<String, String> {
    let problem = |why: String| format!("cannot read {path:?}, the value of `{key}`: {why}");
    let file = std::fs::File::open(path).map_err(|error| problem(error.to_string()))?;
    let mut text = String::new();
    file.take(PARAMETER_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| problem(error.to_string()))?;
    if text.len() as u64 > PARAMETER_FILE_BYTES_MAX {
        return Err(problem(format!("it is longer than {PARAMETER_FILE_BYTES_MAX} bytes")));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(problem("it is empty".to_owned()));
    }
    Ok(text.to_owned())
}

fn method(name: Option<&str>) -> Result<reqwest::Method, String> {
    let name = name.unwrap_or("POST");
    let known = ["GET", "POST", "PUT", "PATCH"];
    match reqwest::Method::from_bytes(name.as_bytes()) {
        Ok(method) if known.contains(&name) => Ok(method),
        Ok(_) | Err(_) => Err(format!("`method` is {name:?}; it can be {}", known.join(", "))),
    }
}

fn answers(table: &BTreeMap<String, Meaning>) -> Result<BTreeMap<u16, Meaning>, String> {
    let read = |(status, meaning): (&String, &Meaning)| match status.parse::<u16>() {
        Ok(status @ 200..=599) => Ok((status, *meaning)),
        Ok(_) | Err(_) => Err(format!("`answers` has {status:?}, which is no HTTP status")),
    };
    table.iter().map(read).collect()
}

fn parse(field: &str, text: &str) -> Result<Template, String> {
    Template::parse(text).map_err(|why| format!("`{field}`: {why}"))
}

fn parse_all(
    field: &str,
    table: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Template>, String> {
    let one = |(name, text): (&String, &String)| {
        Ok((name.clone(), parse(&format!("{field}.{name}"), text)?))
    };
    table.iter().map(one).collect()
}

fn text_of(value: Scalar) -> String {
    match value {
        Scalar::Text(text) => text,
        Scalar::Number(number) => number.to_string(),
    }
}

fn value_of(value: &Scalar) -> Value<'_> {
    match value {
        Scalar::Text(text) => Value::Text(text.into()),
        Scalar::Number(number) => Value::Number(*number),
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986, 2.3.
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
