//! `key-auth`: a key in a header, the query or the body tells who makes the request. Behaves as Kong 3.9's.

mod schema;

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Map, Value as Json};
use silverback_model::{CredentialKind, Phase};
use silverback_pdk::{Caller, Exchange, Outcome, entities};
use silverback_protocol::{Call, Value};

pub(crate) use schema::definition;

pub(crate) const NAME: &str = "key-auth";

pub(crate) fn run(phase: Phase, exchange: &mut Exchange, caller: &Caller, config: &Map<String, Json>) -> Outcome {
    if phase != Phase::Access {
        return Outcome::nothing();
    }
    let config = Config(config);
    if !config.flag("run_on_preflight") && exchange.request.method == Method::OPTIONS {
        return Outcome::nothing();
    }
    let mut plugin = KeyAuth { exchange, caller, config };
    match plugin.config.text("anonymous") {
        Some(anonymous) => plugin.or_anonymous(anonymous),
        None => match plugin.authenticate() {
            Ok(()) => Outcome::nothing(),
            Err(Stop::Refused(refusal)) => plugin.refuse(&refusal),
            Err(Stop::Outcome(outcome)) => outcome,
        },
    }
}

/// The configuration, checked by the schema.
#[derive(Clone, Copy)]
struct Config<'a>(&'a Map<String, Json>);

impl<'a> Config<'a> {
    fn flag(self, name: &str) -> bool {
        self.0.get(name).and_then(Json::as_bool).unwrap_or(false)
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Json::as_str)
    }

    fn key_names(self) -> impl Iterator<Item = &'a str> {
        self.0.get("key_names").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
    }
}

/// Why a request is not authenticated.
struct Refusal {
    status: u16,
    message: &'static str,
}

const UNAUTHORIZED: Refusal = Refusal { status: 401, message: "Unauthorized" };
const NO_KEY: Refusal = Refusal { status: 401, message: "No API key found in request" };
const DUPLICATE_KEY: Refusal = Refusal { status: 401, message: "Duplicate API key found" };

/// What ends the plugin before it is done.
enum Stop {
    Refused(Refusal),
    /// A need, or an error of a PDK function.
    Outcome(Outcome),
}

struct KeyAuth<'a> {
    exchange: &'a mut Exchange,
    caller: &'a Caller,
    config: Config<'a>,
}

impl KeyAuth<'_> {
    fn call(&mut self, method: &str, args: Vec<Value>) -> Outcome {
        silverback_pdk::call(self.exchange, self.caller, &Call { method: method.to_owned().into(), args })
    }

    /// Makes a call that gives nothing back.
    fn perform(&mut self, method: &str, args: Vec<Value>) -> Result<(), Stop> {
        match self.call(method, args) {
            Outcome::Done(_) => Ok(()),
            other => Err(Stop::Outcome(other)),
        }
    }

    /// A failure lets the request go on as the anonymous consumer; whoever is known already stays so.
    fn or_anonymous(&mut self, anonymous: &str) -> Outcome {
        if self.exchange.credential.is_some() {
            return Outcome::nothing();
        }
        match self.authenticate() {
            Ok(()) => Outcome::nothing(),
            Err(Stop::Outcome(outcome)) => outcome,
            Err(Stop::Refused(_)) => {
                let directory = &self.exchange.directory;
                let by_id = || directory.consumer(anonymous.parse().ok()?);
                let Some(consumer) = by_id().or_else(|| directory.consumer_by_username(anonymous)).cloned() else {
                    return Outcome::raise(format!("the anonymous consumer {anonymous} does not exist"));
                };
                let value = entities::consumer(&consumer);
                self.exchange.authenticate(Some(consumer), None);
                match self.tell_upstream(&value, None) {
                    Ok(()) => Outcome::nothing(),
                    Err(Stop::Outcome(outcome)) => outcome,
                    Err(Stop::Refused(refusal)) => self.refuse(&refusal),
                }
            }
        }
    }

    fn refuse(&mut self, refusal: &Refusal) -> Outcome {
        let challenge = match self.config.text("realm") {
            Some(realm) => format!("Key realm=\"{realm}\""),
            None => "Key".to_owned(),
        };
        let headers = Value::Map(vec![("WWW-Authenticate".to_owned(), challenge.into())]);
        let status = Value::Int(i64::from(refusal.status));
        self.call("kong.response.error", vec![status, refusal.message.into(), headers])
    }

    fn authenticate(&mut self) -> Result<(), Stop> {
        let Some(key) = self.find_key()?.filter(|key| !key.is_empty()) else { return Err(Stop::Refused(NO_KEY)) };
        let directory = &self.exchange.directory;
        let now = self.exchange.node.surroundings.now();
        let credential = std::str::from_utf8(&key)
            .ok()
            .and_then(|key| directory.credential(CredentialKind::KeyAuth, key))
            .filter(|credential| credential.expires_at().is_none_or(|end| now < end as f64));
        let Some(credential) = credential.cloned() else { return Err(Stop::Refused(UNAUTHORIZED)) };
        let consumer = directory.consumer(credential.consumer).cloned();
        let value = consumer.as_deref().map_or(Value::Nil, entities::consumer);
        self.exchange.authenticate(consumer, Some(entities::credential(&credential)));
        self.tell_upstream(&value, Some(&credential.id.to_string()))
    }

    /// The key, taken out of the request where credentials are to be hidden.
    fn find_key(&mut self) -> Result<Option<Bytes>, Stop> {
        let mut query = None;
        let mut body = None;
        let config = self.config;
        for name in config.key_names() {
            let mut found = Value::Nil;
            if config.flag("key_in_header") {
                found = header(&self.exchange.request.headers, name);
            }
            if found.is_nil() && config.flag("key_in_query") {
                let query = match &mut query {
                    Some(query) => query,
                    empty => empty.insert(self.table("kong.request.get_query")?),
                };
                found = field(query, name);
            }
            if found.is_nil() && config.flag("key_in_body") {
                let body = match &mut body {
                    Some(body) => body,
                    empty => empty.insert(self.table("kong.request.get_body")?),
                };
                found = field(body, name);
            }
            match found {
                Value::Text(key) => {
                    if config.flag("hide_credentials") {
                        self.hide(name, body)?;
                    }
                    return Ok(Some(key));
                }
                Value::List(_) | Value::Map(_) => return Err(Stop::Refused(DUPLICATE_KEY)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The table that a getter gives; nil where there is none to be had.
    fn table(&mut self, getter: &str) -> Result<Value, Stop> {
        match self.call(getter, Vec::new()) {
            Outcome::Done(done) => {
                if let Some(error) = done.error {
                    let message = format!("Cannot process request body: {error}");
                    self.perform("kong.log.info", vec![message.into()])?;
                }
                Ok(done.value)
            }
            other => Err(Stop::Outcome(other)),
        }
    }

    fn hide(&mut self, name: &str, body: Option<Value>) -> Result<(), Stop> {
        // The body comes first: it may have to be waited for, and nothing may have been changed by then.
        let body = match (self.config.flag("key_in_body"), body) {
            (true, None) => self.table("kong.request.get_body")?,
            (_, body) => body.unwrap_or_default(),
        };
        self.perform("kong.service.request.clear_query_arg", vec![name.into()])?;
        // A header is found by its name with dashes too (nginx's variables know no other difference).
        for spelling in [name.to_owned(), name.replace('_', "-")] {
            self.perform("kong.service.request.clear_header", vec![spelling.into()])?;
        }
        if let Value::Map(mut fields) = body {
            fields.retain(|(known, _)| known != name);
            self.perform("kong.service.request.set_body", vec![Value::Map(fields)])?;
        }
        Ok(())
    }

    /// Sets the headers by which the upstream learns who makes the request, and removes those that the client sent.
    fn tell_upstream(&mut self, consumer: &Value, credential_id: Option<&str>) -> Result<(), Stop> {
        let anonymous = credential_id.is_none().then_some(Value::Bool(true));
        for (header, value) in [
            ("X-Consumer-ID", field(consumer, "id")),
            ("X-Consumer-Custom-ID", field(consumer, "custom_id")),
            ("X-Consumer-Username", field(consumer, "username")),
            ("X-Credential-Identifier", credential_id.into()),
            ("X-Anonymous-Consumer", anonymous.unwrap_or_default()),
        ] {
            if value.is_nil() {
                self.perform("kong.service.request.clear_header", vec![header.into()])?;
            } else {
                self.perform("kong.service.request.set_header", vec![header.into(), value])?;
            }
        }
        Ok(())
    }
}

/// The header of this name: nil, text, or a list where there are several. `_` in a name is taken for `-` too.
fn header(headers: &HeaderMap, name: &str) -> Value {
    let texts = |name: &str| -> Vec<Value> {
        let values = headers.get_all(name).iter();
        values.map(|value| Value::Text(Bytes::copy_from_slice(value.as_bytes()))).collect()
    };
    let mut found = texts(name);
    if found.is_empty() && name.contains('_') {
        found = texts(&name.replace('_', "-"));
    }
    if found.len() > 1 { Value::List(found) } else { found.pop().unwrap_or_default() }
}

fn field(table: &Value, name: &str) -> Value {
    let Value::Map(fields) = table else { return Value::Nil };
    fields.iter().find(|(known, _)| known == name).map_or(Value::Nil, |(_, value)| value.clone())
}

#[cfg(test)]
mod tests;
