//! Listeners: what is bound, what is advertised, what stays closed.

use std::collections::BTreeMap;

use super::value::split_list;

/// An address that clients are told, by listener.
pub use crate::metadata::record::BrokerEndpoint as Endpoint;

/// An address to bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name, upper case.
    pub name: String,
    /// Host; empty is every interface. Without brackets for IPv6.
    pub host: String,
    /// TCP port; 0 is any free one.
    pub port: u16,
    /// Whether it is the controller's, which clients never reach.
    pub controller: bool,
}

/// Splits `host:port`; IPv6 hosts stand in brackets, which are taken off.
pub(super) fn split_host_port(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("'{text}' has no port: host:port is expected"))?;
    let port = port
        .parse::<u16>()
        .map_err(|_| format!("'{port}' is no port: a number from 0 to 65535 is expected"))?;
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .ok_or_else(|| format!("'{host}' opens a bracket and does not close it"))?,
        None if host.contains(':') => {
            return Err(format!(
                "'{host}' is an IPv6 address: write it as [{host}]:{port}"
            ));
        }
        None => host,
    };
    if bare
        .chars()
        .any(|c| c.is_whitespace() || matches!(c, '/' | '[' | ']'))
    {
        return Err(format!("'{host}' is no host name"));
    }
    Ok((bare.to_owned(), port))
}

/// Whether clients on other machines could not be told this host.
pub(super) fn is_wildcard(host: &str) -> bool {
    matches!(host, "" | "0.0.0.0" | "::" | "0:0:0:0:0:0:0:0")
}

/// Reads `NAME://host:port,...`.
pub(super) fn parse_endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for item in split_list(text) {
        let (name, address) = item
            .split_once("://")
            .ok_or_else(|| format!("'{item}' is no listener: NAME://host:port is expected"))?;
        let name = name.to_ascii_uppercase();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(legal) {
            return Err(format!("'{name}' is no listener name"));
        }
        let (host, port) = split_host_port(address)?;
        if endpoints.iter().any(|have| have.listener == name) {
            return Err(format!(
                "Each listener must have a different name: {name} is there twice"
            ));
        }
        endpoints.push(Endpoint {
            listener: name,
            host,
            port,
        });
    }
    Ok(endpoints)
}

/// Reads `NAME:PROTOCOL,...`.
pub(super) fn parse_protocol_map(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut map = BTreeMap::new();
    for item in split_list(text) {
        let (name, protocol) = item
            .split_once(':')
            .ok_or_else(|| format!("'{item}' is no mapping: NAME:PROTOCOL is expected"))?;
        let protocol = protocol.trim().to_ascii_uppercase();
        if !["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&protocol.as_str()) {
            return Err(format!(
                "'{protocol}' is no security protocol: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
            ));
        }
        if map
            .insert(name.trim().to_ascii_uppercase(), protocol)
            .is_some()
        {
            return Err(format!("listener {name} is mapped twice"));
        }
    }
    Ok(map)
}

/// Marks the controller's listeners and checks the rest.
pub(super) fn resolve_listeners(
    bound: Vec<Endpoint>,
    protocols: &BTreeMap<String, String>,
    controller_names: &[String],
) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::with_capacity(bound.len());
    for endpoint in bound {
        let controller = controller_names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&endpoint.listener));
        match protocols.get(&endpoint.listener).map(String::as_str) {
            Some("PLAINTEXT") => {}
            None if controller => {}
            Some(_) if controller => {}
            Some(protocol) => {
                return Err(format!(
                    "listener {} asks for {protocol}: this version serves PLAINTEXT only",
                    endpoint.listener
                ));
            }
            None => {
                return Err(format!(
                    "No security protocol defined for listener {}: add {}:PLAINTEXT to listener.security.protocol.map",
                    endpoint.listener, endpoint.listener
                ));
            }
        }
        let taken = |have: &Listener| {
            endpoint.port != 0 && have.port == endpoint.port && have.host == endpoint.host
        };
        if listeners.iter().any(taken) {
            return Err(format!("port {} is there twice", endpoint.port));
        }
        listeners.push(Listener {
            name: endpoint.listener,
            host: endpoint.host,
            port: endpoint.port,
            controller,
        });
    }
    Ok(listeners)
}

/// What clients are told: one address for each of their listeners.
pub(super) fn resolve_advertised(
    listeners: &[Listener],
    advertised: Option<&str>,
) -> Result<Vec<Endpoint>, String> {
    let told = advertised
        .map(parse_endpoints)
        .transpose()?
        .unwrap_or_default();
    for endpoint in &told {
        if !listeners
            .iter()
            .any(|listener| listener.name == endpoint.listener)
        {
            return Err(format!(
                "advertised.listeners names {}, which listeners does not",
                endpoint.listener
            ));
        }
    }
    let mut out = Vec::new();
    for listener in listeners.iter().filter(|listener| !listener.controller) {
        let endpoint = told
            .iter()
            .find(|endpoint| endpoint.listener == listener.name)
            .cloned();
        let endpoint = endpoint.unwrap_or_else(|| Endpoint {
            listener: listener.name.clone(),
            host: listener.host.clone(),
            port: listener.port,
        });
        if is_wildcard(&endpoint.host) {
            return Err(format!(
                "clients cannot be told to connect to '{}': write advertised.listeners={}://HOST:{} with a host name or address that clients reach",
                endpoint.host, endpoint.listener, endpoint.port
            ));
        }
        out.push(endpoint);
    }
    Ok(out)
}
