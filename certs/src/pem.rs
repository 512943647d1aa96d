//! PEM files: a certificate chain, a private key, or both in one.
//!
//! Errors name the file, because an operator with two files must know which one to fix.

use std::{fs::File, io::Read, path::Path};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject, SectionKind},
};

use crate::CertsError;

/// Loads all certificates in the PEM file `path`, at least one: a chain, or CAs to trust.
///
/// # Errors
///
/// Names the file and says what is wrong with it.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    certificates(path, &read(path)?)
}

/// Reads a PEM file of limited size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertsError> {
    let file = File::open(path).map_err(|source| io_error(path, "open it", source))?;
    read_from(path, &file)
}

/// Reads an open PEM file of limited size; `path` is for errors.
pub(crate) fn read_from(path: &Path, file: &File) -> Result<Vec<u8>, CertsError> {
    let mut text = Vec::new();
    // One byte more than the limit, to detect a file that is too large.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|source| io_error(path, "read it", source))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(CertsError::TooLarge {
            path: path.to_owned(),
            limit: FILE_BYTES_MAX,
        });
    }
    Ok(text)
}

/// Parses all certificates in `text`, in order, at least one.
pub(crate) fn certificates(
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| pem_error(path, source))?;
    if chain.is_empty() {
        return Err(CertsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

/// Parses the only private key in `text`.
pub(crate) fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, CertsError> {
    let mut found = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|source| pem_error(path, source))?;
        let Some(key) = PrivateKeyDer::from_pem(kind, der) else {
            continue;
        };
        if found.replace(key).is_some() {
            return Err(CertsError::SeveralPrivateKeys {
                path: path.to_owned(),
            });
        }
    }
    found.ok_or_else(|| CertsError::NoPrivateKey {
        path: path.to_owned(),
    })
}

/// An error of the system on `path`.
pub(crate) fn io_error(path: &Path, action: &'static str, source: std::io::Error) -> CertsError {
    CertsError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}

fn pem_error(path: &Path, source: pem::Error) -> CertsError {
    CertsError::Pem {
        path: path.to_owned(),
        source,
    }
}

/// Most bytes of a PEM file: more than any chain in use (a few KiB). The limit protects the memory
/// against a mistyped file name.
const FILE_BYTES_MAX: u64 = 1 << 20;
