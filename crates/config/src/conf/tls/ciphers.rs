//! OpenSSL's cipher lists (`openssl-ciphers(1)`), as far as the suites go that rustls has for TLS 1.2.

/// The suites, and the words by which a list may mean them.
const SUITES: [(&str, &[&str]); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", &["AES256", "AESGCM", "AES", "aECDSA", "ECDSA", "FIPS"]),
    ("ECDHE-RSA-AES256-GCM-SHA384", &["AES256", "AESGCM", "AES", "aRSA", "RSA", "FIPS"]),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", &["AES128", "AESGCM", "AES", "aECDSA", "ECDSA", "FIPS"]),
    ("ECDHE-RSA-AES128-GCM-SHA256", &["AES128", "AESGCM", "AES", "aRSA", "RSA", "FIPS"]),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", &["CHACHA20", "aECDSA", "ECDSA"]),
    ("ECDHE-RSA-CHACHA20-POLY1305", &["CHACHA20", "aRSA", "RSA"]),
];

/// Words that mean every one of the suites.
const ALL: [&str; 12] = [
    "ALL",
    "DEFAULT",
    "COMPLEMENTOFDEFAULT",
    "HIGH",
    "TLSv1.2",
    "ECDH",
    "ECDHE",
    "EECDH",
    "kECDHE",
    "kEECDH",
    "kEECDHE",
    "PFS",
];

/// The order of Kong's `intermediate` list.
pub(super) const INTERMEDIATE: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
     ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:\
     ECDHE-RSA-CHACHA20-POLY1305";

/// What a list comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// OpenSSL's names of the suites, the preferred one first.
    pub(super) suites: Vec<&'static str>,
    /// What the list asks for and rustls does not have.
    pub(super) missing: Vec<String>,
}

/// Evaluates a list from left to right: words add, `-` removes, `!` removes for good, `+` moves to the end.
pub(super) fn choose(list: &str) -> Chosen {
    let mut chosen = Chosen::default();
    let mut killed: Vec<&str> = Vec::new();
    for word in list.split([':', ',', ' ', ';']).filter(|word| !word.is_empty()) {
        // Suites of TLS 1.3 are not chosen by this list; `@STRENGTH` and `@SECLEVEL` mean nothing to rustls.
        if word.starts_with('@') || word.starts_with("TLS_") {
            continue;
        }
        let (sign, name) = match word.split_at_checked(1) {
            Some((sign @ ("!" | "-" | "+"), name)) => (sign, name),
            _ => ("", word),
        };
        let meant: Vec<&'static str> =
            SUITES.iter().filter(|(suite, words)| means(name, suite, words)).map(|(suite, _)| *suite).collect();
        match sign {
            "!" => {
                chosen.suites.retain(|suite| !meant.contains(suite));
                killed.extend(meant);
            }
            "-" => chosen.suites.retain(|suite| !meant.contains(suite)),
            "+" => {
                let (moved, kept): (Vec<&str>, Vec<&str>) =
                    chosen.suites.iter().partition(|suite| meant.contains(suite));
                chosen.suites = [kept, moved].concat();
            }
            _ if meant.is_empty() => chosen.missing.push(word.to_owned()),
            _ => {
                for suite in meant {
                    if !chosen.suites.contains(&suite) && !killed.contains(&suite) {
                        chosen.suites.push(suite);
                    }
                }
            }
        }
    }
    chosen
}

/// Whether `name`, words joined by `+`, means a suite.
fn means(name: &str, suite: &str, words: &[&str]) -> bool {
    name == suite || name.split('+').all(|word| ALL.contains(&word) || words.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::{INTERMEDIATE, choose};

    #[test]
    fn lists_are_read_as_openssl_reads_them() {
        let check = |list: &str, suites: &[&str], missing: &[&str]| {
            let chosen = choose(list);
            assert_eq!(
                (chosen.suites.as_slice(), chosen.missing),
                (suites, missing.iter().map(|m| (*m).to_owned()).collect()),
                "{list}"
            );
        };
        assert_eq!(choose(INTERMEDIATE).suites.len(), 6);
        assert_eq!(choose("HIGH:!aNULL:!MD5").suites.len(), 6);
        check(
            "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:AES256-SHA",
            &["ECDHE-RSA-AES128-GCM-SHA256"],
            &["DHE-RSA-AES128-GCM-SHA256", "AES256-SHA"],
        );
        check("ECDHE+AESGCM:!aECDSA", &["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"], &[]);
        check(
            "EECDH+CHACHA20:EECDH+AES128+aRSA",
            &["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256"],
            &[],
        );
        check("!AES:ALL:-aRSA:@STRENGTH", &["ECDHE-ECDSA-CHACHA20-POLY1305"], &[]);
        check("CHACHA20:+aECDSA", &["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"], &[]);
        check("TLS_AES_128_GCM_SHA256", &[], &[]);
    }
}
