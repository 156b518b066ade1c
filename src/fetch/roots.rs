//! Certificates of authorities that storage's own is held against.

#![forbid(unsafe_code)]

use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// The authorities that are trusted, of a file of PEM certificates.
#[derive(Clone, Debug)]
pub struct Roots(Arc<Vec<Certificate<'static>>>);

impl Roots {
    /// Reads a file; the error says what is wrong with it.
    pub fn read(path: &str) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|e| e.to_string())?;
        let mut certificates = Vec::new();
        for item in parse_pem(&text) {
            match item.map_err(|e| e.to_string())? {
                PemItem::Certificate(certificate) => certificates.push(certificate),
                _ => return Err("it holds something other than certificates".into()),
            }
        }
        if certificates.is_empty() {
            return Err("it holds no certificate".into());
        }
        Ok(Self(certificates.into()))
    }

    /// As TLS takes them.
    pub fn certificates(&self) -> RootCerts {
        RootCerts::Specific(self.0.clone())
    }
}

/// The same are those of one reading.
impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
