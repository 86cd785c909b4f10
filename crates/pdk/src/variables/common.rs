//! The variables of the default access-log formats, written without a detour: a line of them is written for each request.

use http::{HeaderName, header};

use super::{protocol, time};
use crate::{Exchange, address, exchange::Subsystem};

/// A variable of requests that access logs commonly have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Common {
    RemoteAddr,
    TimeLocal,
    Request,
    Status,
    BodyBytesSent,
    Referer,
    UserAgent,
    RequestId,
}

impl Common {
    /// The variable of this name, in lower case.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "remote_addr" => Self::RemoteAddr,
            "time_local" => Self::TimeLocal,
            "request" => Self::Request,
            "status" => Self::Status,
            "body_bytes_sent" => Self::BodyBytesSent,
            "http_referer" => Self::Referer,
            "http_user_agent" => Self::UserAgent,
            "kong_request_id" => Self::RequestId,
            _ => return None,
        })
    }

    /// Hands its value to `write`, in one piece or several. False when it has none, or must be looked up by its name
    /// ([`super::variable`]).
    pub fn write(self, exchange: &Exchange, mut write: impl FnMut(&[u8])) -> bool {
        if exchange.subsystem == Subsystem::Stream {
            return false;
        }
        let request = &exchange.request;
        match self {
            Self::RemoteAddr => match exchange.client.real_ip.or(exchange.client.ip) {
                Some(ip) => write(address::text(ip).as_bytes()),
                None => return false,
            },
            Self::TimeLocal => time::with_local(exchange.node.surroundings.now(), |time| write(time.as_bytes())),
            Self::Request => {
                let method = exchange.wishes.original_method.as_ref().unwrap_or(&request.method);
                for part in [method.as_str(), " ", &request.raw_uri, " ", protocol(request.version)] {
                    write(part.as_bytes());
                }
            }
            Self::Status => match exchange.response.status {
                Some(status @ 100..) => write(status.to_string().as_bytes()),
                _ => return false,
            },
            Self::BodyBytesSent => write(exchange.response.body_bytes.to_string().as_bytes()),
            Self::Referer => return header(exchange, &header::REFERER, write),
            Self::UserAgent => return header(exchange, &header::USER_AGENT, write),
            Self::RequestId => write(exchange.id.as_bytes()),
        }
        true
    }
}

/// A header that came once.
fn header(exchange: &Exchange, name: &HeaderName, mut write: impl FnMut(&[u8])) -> bool {
    let mut values = exchange.request.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => {
            write(value.as_bytes());
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::Common;
    use crate::{testing, variables::variable};

    #[test]
    fn values_are_those_of_the_variables() {
        let mut exchange = testing::http_exchange();
        exchange.request.headers.insert("referer", "http://a.test/\"".parse().unwrap());
        exchange.request.headers.insert("user-agent", "curl".parse().unwrap());
        let names = [
            "remote_addr",
            "time_local",
            "request",
            "status",
            "body_bytes_sent",
            "http_referer",
            "http_user_agent",
            "kong_request_id",
        ];
        for name in names {
            let mut value = Vec::new();
            assert!(Common::of(name).unwrap().write(&exchange, |part| value.extend_from_slice(part)), "{name}");
            assert_eq!(Some(value.as_slice()), variable(&exchange, name).as_deref(), "{name}");
        }
        exchange.request.headers.append("user-agent", "other".parse().unwrap());
        exchange.request.headers.remove("referer");
        exchange.response.status = None;
        for name in ["http_user_agent", "http_referer", "status"] {
            assert!(!Common::of(name).unwrap().write(&exchange, |_| panic!("{name}")), "{name}");
        }
    }
}
