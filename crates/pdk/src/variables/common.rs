//! The variables of the default access-log formats, written without a detour: a line of them is written for each request.

use http::{HeaderName, header};

use super::{protocol, time};
use crate::{Exchange, address, exchange::Subsystem};

/// A variable of requests that access logs commonly have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Common {
    RemoteAddr,
    RemoteUser,
    TimeLocal,
    Request,
    Status,
    BodyBytesSent,
    Referer,
    UserAgent,
    RequestId,
}

/// What came of appending a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    Value,
    /// It has none.
    NoValue,
    /// It must be looked up by its name ([`super::variable`]); nothing was appended.
    Unknown,
}

impl Common {
    /// The variable of this name, in lower case.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "remote_addr" => Self::RemoteAddr,
            "remote_user" => Self::RemoteUser,
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

    /// Appends its value to `line`; what a client wrote goes through `escape`.
    pub fn append(self, exchange: &Exchange, line: &mut Vec<u8>, escape: impl Fn(&mut Vec<u8>, &[u8])) -> Appended {
        if exchange.subsystem == Subsystem::Stream {
            return Appended::Unknown;
        }
        let request = &exchange.request;
        match self {
            Self::RemoteAddr => match exchange.client.real_ip.or(exchange.client.ip) {
                Some(ip) => address::append(line, ip),
                None => return Appended::Unknown,
            },
            Self::TimeLocal => {
                let now = exchange.timings.response_end.unwrap_or_else(|| exchange.node.surroundings.now());
                time::with_local(now, |time| line.extend_from_slice(time.as_bytes()));
            }
            Self::Request => {
                if let Some(said) = &request.line {
                    escape(line, said);
                    return Appended::Value;
                }
                let method = exchange.wishes.original_method.as_ref().unwrap_or(&request.method);
                // A method is made of letters and signs that no format escapes.
                line.extend_from_slice(method.as_str().as_bytes());
                line.push(b' ');
                escape(line, request.raw_uri.as_bytes());
                line.push(b' ');
                line.extend_from_slice(protocol(request.version).as_bytes());
            }
            Self::Status => match exchange.response.status {
                Some(status @ 100..) => append_number(line, status.into()),
                _ => return Appended::Unknown,
            },
            Self::BodyBytesSent => append_number(line, exchange.response.body_bytes),
            Self::Referer => return append_header(exchange, &header::REFERER, line, escape),
            Self::UserAgent => return append_header(exchange, &header::USER_AGENT, line, escape),
            Self::RequestId => line.extend_from_slice(exchange.id.as_bytes()),
            Self::RemoteUser if request.headers.contains_key(header::AUTHORIZATION) => return Appended::Unknown,
            Self::RemoteUser => return Appended::NoValue,
        }
        Appended::Value
    }
}

/// A header that came once, if it is not empty.
fn append_header(
    exchange: &Exchange,
    name: &HeaderName,
    line: &mut Vec<u8>,
    escape: impl Fn(&mut Vec<u8>, &[u8]),
) -> Appended {
    let mut values = exchange.request.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => {
            escape(line, value.as_bytes());
            Appended::Value
        }
        (None, _) => Appended::NoValue,
        _ => Appended::Unknown,
    }
}

fn append_number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{Appended, Common};
    use crate::{testing, variables::variable};

    #[test]
    fn values_are_those_of_the_variables() {
        let mut exchange = testing::http_exchange();
        exchange.response.body_bytes = 1_234_567_890;
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
        let plain = |line: &mut Vec<u8>, part: &[u8]| line.extend_from_slice(part);
        for name in names {
            let mut value = Vec::new();
            assert_eq!(Common::of(name).unwrap().append(&exchange, &mut value, plain), Appended::Value, "{name}");
            assert_eq!(Some(value.as_slice()), variable(&exchange, name).as_deref(), "{name}");
        }
        exchange.request.headers.append("user-agent", "other".parse().unwrap());
        exchange.request.headers.remove("referer");
        exchange.request.headers.remove("authorization");
        exchange.response.status = None;
        for (name, expect) in [
            ("http_user_agent", Appended::Unknown),
            ("http_referer", Appended::NoValue),
            ("status", Appended::Unknown),
            ("remote_user", Appended::NoValue),
        ] {
            let mut value = Vec::new();
            let appended = Common::of(name).unwrap().append(&exchange, &mut value, |_, _| panic!("{name}"));
            assert_eq!(appended, expect, "{name}");
            assert_eq!(appended == Appended::NoValue, variable(&exchange, name).is_none(), "{name}");
            assert!(value.is_empty());
        }
        exchange.request.headers.insert("authorization", "Basic YTpi".parse().unwrap());
        assert_eq!(Common::RemoteUser.append(&exchange, &mut Vec::new(), plain), Appended::Unknown);
    }
}
