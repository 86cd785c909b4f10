//! Entities as plugins see them: Kong's field names, unset fields absent.

use serde::Serialize;
use serde_json::{Value as Json, json};
use silverback_model::{Consumer, Credential, Route, Service};
use silverback_protocol::Value;

use crate::json;

/// The id of the only workspace; Kong's for a declarative configuration.
pub const WORKSPACE_ID: &str = "0dc6f45b-8f8d-40d2-a504-473544ee190b";

/// The name of the only workspace.
pub const WORKSPACE_NAME: &str = "default";

/// A route, as `kong.router.get_route` gives it.
pub fn route(route: &Route) -> Value {
    let mut fields = fields(route);
    reference(&mut fields, "service");
    if let Some(headers) = &route.headers {
        let headers: serde_json::Map<_, _> =
            headers.iter().map(|(name, values)| (name.clone(), json!(values))).collect();
        fields.insert("headers".to_owned(), Json::Object(headers));
    }
    if route.protocols.iter().any(|protocol| protocol.is_http()) {
        for name in ["sources", "destinations"] {
            fields.remove(name);
        }
    }
    fields.insert("ws_id".to_owned(), WORKSPACE_ID.into());
    json::from_json_without_nulls(&Json::Object(fields))
}

/// A service, as `kong.router.get_service` gives it.
pub fn service(service: &Service) -> Value {
    let mut fields = fields(service);
    reference(&mut fields, "client_certificate");
    fields.insert("ws_id".to_owned(), WORKSPACE_ID.into());
    json::from_json_without_nulls(&Json::Object(fields))
}

/// A consumer, as `kong.client.get_consumer` gives it.
pub fn consumer(consumer: &Consumer) -> Value {
    json::from_json_without_nulls(&Json::Object(fields(consumer)))
}

/// A credential, as `kong.client.get_credential` gives it.
pub fn credential(credential: &Credential) -> Value {
    json::from_json_without_nulls(&Json::Object(credential.fields.clone()))
}

fn fields(entity: &impl Serialize) -> serde_json::Map<String, Json> {
    match serde_json::to_value(entity) {
        Ok(Json::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

/// Foreign keys are tables with an id.
fn reference(fields: &mut serde_json::Map<String, Json>, name: &str) {
    if let Some(value) = fields.get_mut(name)
        && value.is_string()
    {
        *value = json!({ "id": value.take() });
    }
}
