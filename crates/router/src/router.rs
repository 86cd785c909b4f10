//! Building the router, and asking it.

use std::{collections::HashMap, fmt, sync::Arc};

use silverback_model::{Id, Route, Service, Snapshot};
use thiserror::Error;

use crate::{
    index::{Node, Search},
    matched::{Match, Query},
    rule::{HeaderField, Request, Rule, Workshop, parts},
};

/// Finds the route of a request.
///
/// A clone shares the routes and the compiled expressions but has caches of its own for matching them: threads that
/// have a clone each do not wait for one another.
#[derive(Clone, Debug)]
pub struct Router {
    destinations: Vec<Destination>,
    /// In the order in which Kong would try them.
    rules: Vec<Rule>,
    index: Node,
    fields: Vec<HeaderField>,
    asks_for_host: bool,
    asks_for_path: bool,
}

#[derive(Clone, Debug)]
struct Destination {
    route: Arc<Route>,
    service: Option<Arc<Service>>,
}

/// Why no router can be built: all that is wrong with the routes.
#[derive(Debug, Error)]
#[error("{}", self.listed())]
pub struct BuildError {
    pub problems: Vec<Problem>,
}

/// What is wrong with one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub route: Id,
    pub name: Option<String>,
    /// The field and what is wrong with it.
    pub what: String,
}

impl BuildError {
    fn listed(&self) -> String {
        let lines: Vec<_> = self.problems.iter().map(Problem::to_string).collect();
        lines.join("\n")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "route {name:?} ({}): {}", self.route, self.what),
            None => write!(f, "route {}: {}", self.route, self.what),
        }
    }
}

impl Router {
    /// The router for the snapshot's HTTP routes. Routes of disabled services are left out; routes without a service
    /// are not.
    ///
    /// # Errors
    /// Everything that is wrong with the routes: expressions that do not compile, names that are none, services that
    /// do not exist.
    pub fn build(snapshot: &Snapshot) -> Result<Self, BuildError> {
        let services: HashMap<Id, &Arc<Service>> =
            snapshot.services.iter().map(|service| (service.id, service)).collect();
        let mut destinations = Vec::new();
        let mut workshop = Workshop::default();
        let mut placed = Vec::new();
        let mut problems = Vec::new();

        for route in &snapshot.routes {
            if !route.protocols.iter().any(|protocol| protocol.is_http()) {
                continue;
            }
            let mut report = |what: String| problems.push(Problem { route: route.id, name: route.name.clone(), what });
            let service = match route.service.map(|id| services.get(&id).copied().ok_or(id)) {
                None => None,
                Some(Ok(service)) if service.enabled => Some(Arc::clone(service)),
                Some(Ok(_)) => continue,
                Some(Err(id)) => {
                    report(format!("service: there is none with the id {id}"));
                    continue;
                }
            };
            for (place, paths) in parts(route) {
                match workshop.rule(route, destinations.len(), &paths) {
                    Ok(Some(rule)) => placed.push((place, rule)),
                    Ok(None) => {}
                    Err(what) => report(what),
                }
            }
            destinations.push(Destination { route: Arc::clone(route), service });
        }
        if !problems.is_empty() {
            return Err(BuildError { problems });
        }

        placed.sort_unstable_by_key(|(place, _)| *place);
        let rules: Vec<_> = placed.into_iter().map(|(_, rule)| rule).collect();
        let keys: Vec<_> = rules.iter().map(Rule::keys).collect();
        Ok(Self {
            index: Node::new(&keys),
            asks_for_host: rules.iter().any(Rule::asks_for_host),
            asks_for_path: rules.iter().any(Rule::asks_for_path),
            destinations,
            rules,
            fields: workshop.fields,
        })
    }

    /// The route that the request takes. Its protocols are not looked at: see [`refusal`](crate::refusal).
    ///
    /// A host, a path or a header value that is not UTF-8 leads nowhere, if there is a route that asks for it.
    pub fn find(&self, query: &Query<'_>) -> Option<Match<'_>> {
        let path = match std::str::from_utf8(query.path) {
            Ok(path) => path,
            Err(_) if self.asks_for_path => return None,
            Err(_) => "",
        };
        if self.asks_for_host && std::str::from_utf8(query.host).is_err() || self.asks_for_broken_header(query) {
            return None;
        }
        let request = Request::new(query, path, self.asks_for_host);
        let rule = Search::run(&self.index, &self.rules, &self.fields, &request)?;
        let destination = self.destinations.get(rule.route)?;
        let (path, captures) = rule.details(&request, &self.fields);
        Some(Match { route: &destination.route, service: destination.service.as_ref(), path, captures })
    }

    fn asks_for_broken_header(&self, query: &Query<'_>) -> bool {
        if self.fields.is_empty() {
            return false;
        }
        let is_broken = |value: &[u8]| !value.is_ascii() && std::str::from_utf8(value).is_err();
        let suspects = query.headers.iter().filter(|(_, value)| is_broken(value.as_bytes()));
        suspects.into_iter().any(|(name, _)| {
            let fields = self.fields.iter().filter(|field| field.goes_by(name));
            fields.into_iter().any(|field| field.values(query.headers).any(is_broken))
        })
    }
}

#[cfg(test)]
mod tests;
