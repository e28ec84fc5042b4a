//! TLS from the pipe to the pooler, as sqlx speaks it to a server: each `sslmode` means the same.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::relay::Stream;

/// The request that precedes a handshake.
const REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

pub(super) async fn over(mut stream: TcpStream, pooler: &PgConnectOptions) -> io::Result<Box<dyn Stream>> {
    let mode = pooler.get_ssl_mode();
    if matches!(mode, PgSslMode::Disable | PgSslMode::Allow) {
        return Ok(Box::new(stream));
    }
    stream.write_all(&REQUEST).await?;
    match (stream.read_u8().await?, mode) {
        (b'S', _) => {}
        (_, PgSslMode::Prefer) => return Ok(Box::new(stream)),
        _ => return Err(io::Error::other(format!("it does not speak TLS, and sslmode is {mode:?}"))),
    }
    let name = ServerName::try_from(pooler.get_host().trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config(pooler)?));
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn config(pooler: &PgConnectOptions) -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match pooler.get_ssl_mode() {
        PgSslMode::VerifyFull => builder.with_root_certificates(roots(pooler)?),
        PgSslMode::VerifyCa => {
            let roots = Arc::new(roots(pooler)?);
            let chain = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            let verifier = Verifier { provider, chain: Some(chain.map_err(io::Error::other)?) };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        _ => builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { provider, chain: None })),
    };
    match (given(pooler, "sslcert")?, given(pooler, "sslkey")?) {
        (Some(certificate), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(io::Error::other)?;
            builder.with_client_auth_cert(chain.map_err(io::Error::other)?, key).map_err(io::Error::other)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The system's, and the one that was named.
fn roots(pooler: &PgConnectOptions) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in CertificateDer::pem_slice_iter(&given(pooler, "sslrootcert")?.unwrap_or_default()) {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(roots)
}

/// A certificate or key of the options, as PEM: their URL is the only place where sqlx tells of it.
fn given(pooler: &PgConnectOptions, what: &str) -> io::Result<Option<Vec<u8>>> {
    let url = pooler.to_url_lossy();
    let Some((_, said)) = url.query_pairs().find(|(name, _)| name == what) else { return Ok(None) };
    match said.strip_prefix("file: ") {
        Some(path) => std::fs::read(path).map(Some).map_err(|e| io::Error::other(format!("{what}: {path}: {e}"))),
        None => Ok(Some(said.as_bytes().to_vec())),
    }
}

/// Looks at the chain alone and not at the name, or at nothing: `verify-ca`, `require` and `prefer`.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end, between, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            looked => looked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
