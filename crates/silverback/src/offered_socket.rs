//! Whether a plugin server listens where it is looked for.
//!
//! A server built with go-pdk takes the name of its socket from its executable, whatever the configuration calls it, and puts it
//! into the prefix that its start command names. Kong's users meet this as a server that is never ready.

use std::path::Path;

use silverback_config::settings::PluginServer;
use silverback_plugin_host::Offer;

/// What is wrong with the socket that a server says it listens on, and the cure. Its query command need not name the prefix and
/// the socket that its start command does, so what the start command names is left alone.
pub(crate) fn elsewhere(server: &PluginServer, offer: &Offer) -> Option<String> {
    let (start_cmd, says) = (server.start_cmd.as_deref()?, offer.socket.as_deref()?);
    let (name, here) = (server.socket.file_name()?.to_str()?, server.socket.parent()?);
    let other_name = says.file_name()? != name && !start_cmd.contains(name);
    let other_place = says.parent()? != here && !start_cmd.contains("prefix");
    let place = if other_place { says.parent()? } else { here };
    let place = place.join(if other_name { says.file_name()? } else { Path::new(name).as_os_str() });
    let stem = server.name.replace(['-', '.'], "_");
    (other_name || other_place).then(|| {
        format!(
            "it says that it listens on {}, and is looked for at {}: set pluginserver_{stem}_socket = {}",
            says.display(),
            server.socket.display(),
            place.display(),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use silverback_plugin_host::WireProtocol;

    use super::*;

    fn check(start_cmd: &str, says: &str, expect: Option<&str>) {
        let text = format!(
            "prefix = /p\npluginserver_names = my-go\npluginserver_my_go_start_cmd = {start_cmd}\n\
             pluginserver_my_go_query_cmd = x\n"
        );
        let settings = silverback_config::load_text(None, &text, &BTreeMap::new()).unwrap().settings;
        let offer = Offer {
            server: "my-go".to_owned(),
            protocol: WireProtocol::ProtoBuf,
            socket: Some(PathBuf::from(says)),
            plugins: Vec::new(),
            complaints: Vec::new(),
        };
        let told = elsewhere(&settings.plugin_servers[0], &offer);
        let cure =
            told.as_deref().and_then(|told| told.split_once("pluginserver_my_go_socket = ")).map(|(_, cure)| cure);
        assert_eq!(cure, expect, "{start_cmd}: {told:?}");
    }

    #[test]
    fn a_server_that_listens_elsewhere_is_told_of() {
        check("/bin/tenant -kong-prefix /p", "/p/tenant.socket", Some("/p/tenant.socket"));
        check("/bin/tenant -kong-prefix /p", "/usr/local/kong/tenant.socket", Some("/p/tenant.socket"));
        check("/bin/my-go", "/usr/local/kong/my-go.socket", Some("/usr/local/kong/my-go.socket"));
        check("/bin/tenant", "/usr/local/kong/tenant.socket", Some("/usr/local/kong/tenant.socket"));
    }

    #[test]
    fn one_that_its_start_command_leads_to_the_place_is_not() {
        check("/bin/my-go -kong-prefix /p", "/p/my-go.socket", None);
        check("/bin/my-go -kong-prefix p", "/usr/local/kong/my-go.socket", None);
        check("py --kong-prefix /p --socket-name my-go.socket", "/usr/local/kong/py.sock", None);
    }
}
