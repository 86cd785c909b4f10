//! The protocol `MsgPack:1`, which go-pluginserver and the servers of kong-js-pdk and kong-python-pdk speak:
//! MessagePack-RPC.

mod decode;
mod encode;
mod rpc;
mod scan;

pub use decode::decode;
pub use encode::put_value;
pub use rpc::{Next, Request, Response, ServerMessage};
pub use scan::Scanner;

/// Nesting that is accepted in what servers send.
pub const MAX_DEPTH: usize = 64;

/// Items (of lists, maps, and alone) that are accepted in one message: it bounds the memory that a short message of
/// many small items takes once decoded.
pub const MAX_ITEMS: u64 = 1 << 20;

/// What a server sent that the protocol does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("message of more than the {max} bytes that are accepted")]
    TooLarge { max: usize },
    #[error("message of more than {MAX_ITEMS} items")]
    TooManyItems,
    #[error("message nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("message ends in the middle of a value")]
    Truncated,
    #[error("byte 0xc1, which MessagePack does not use")]
    UnusedByte,
    #[error("no MessagePack-RPC message: {0}")]
    NotRpc(&'static str),
}

#[cfg(test)]
mod tests;
