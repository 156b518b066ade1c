//! Fetching credentials: the AWS SDKs' own chain of sources (AWS SDKs and tools reference guide, "Standardized credential
//! providers") and STS, in a runtime that lives for one answer, in the thread that waits for it.
//!
//! Requests go out by ureq, one after the other: a runtime's timers cannot end one, its own time-outs do.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::{self, credentials::ImdsCredentialsProvider};
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use ureq::{Agent, http};
use zeroize::Zeroize as _;

use super::identity::{Identity, Role};

/// For a connection to what gives credentials, and for its answer; sources with time-outs of their own have shorter ones.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The instance's own service is a hop away, or not there.
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);
const ATTEMPTS_MAX: u32 = 3;
/// Of an answer, and of what an error says.
const ANSWER_LEN_MAX: u64 = 1024 * 1024;
const WHY_LEN_MAX: usize = 400;

/// Why there are no credentials; the text says it in the words of the library.
pub enum Trouble {
    /// No source has any.
    Nothing(String),
    /// A source should have some.
    Failed(String),
}

/// Asks for the credentials of `identity`. Takes as long as the sources take: not for a thread that has other things to do.
pub fn fetch(identity: &Identity) -> Result<Credentials, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|e| Trouble::Failed(e.to_string()))?;
    runtime.block_on(ask(identity)).map_err(|error| match error {
        CredentialsError::CredentialsNotLoaded(_) => Trouble::Nothing(told(&error)),
        error => Trouble::Failed(told(&error)),
    })
}

async fn ask(identity: &Identity) -> Result<Credentials, CredentialsError> {
    let http = http_client_fn(|settings, _| SharedHttpConnector::new(Connector::new(settings)));
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(TIMEOUT).build();
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX);
    let asking = ProviderConfig::default()
        .with_http_client(http.clone())
        .with_retry_config(retries.clone())
        .with_timeout_config(timeouts.clone());
    let region = region(identity, &asking).await;
    let base = match &identity.keys {
        Some(keys) => SharedCredentialsProvider::new(keys.0.clone()),
        None => SharedCredentialsProvider::new(chain(&asking.with_region(Some(region.clone())))),
    };
    let Some(role) = &identity.role else { return base.provide_credentials().await };
    let sdk = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .retry_config(retries)
        .timeout_config(timeouts)
        .region(region)
        .no_credentials()
        .profile_files(profile_files())
        .load()
        .await;
    assume(role, &sdk, base).await
}

/// The sources of the SDKs' default chain, in its order.
fn chain(asking: &ProviderConfig) -> CredentialsProviderChain {
    let imds = imds::Client::builder().configure(asking).connect_timeout(IMDS_TIMEOUT).read_timeout(IMDS_TIMEOUT);
    let imds = imds.max_attempts(ATTEMPTS_MAX).build();
    let profile = ProfileFileCredentialsProvider::builder().configure(asking).profile_files(profile_files());
    let web = WebIdentityTokenCredentialsProvider::builder().configure(asking);
    let container = EcsCredentialsProvider::builder().configure(asking);
    let instance = ImdsCredentialsProvider::builder().configure(asking).imds_client(imds);
    CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
        .or_else("profile", profile.build())
        .or_else("web identity", web.build())
        .or_else("container", container.build())
        .or_else("instance", instance.build())
}

/// The files that hold profiles. Those that no variable names lie in the home of who started httpd, and children are somebody
/// else: what is closed to them there is as good as absent, and keeps none of the other sources from being asked.
fn profile_files() -> EnvConfigFiles {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let is_closed = |variable, name| {
        let opened = || File::open(home.join(".aws").join(name));
        std::env::var_os(variable).is_none() && opened().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    };
    let files = EnvConfigFiles::builder();
    let files = match is_closed("AWS_CONFIG_FILE", "config") {
        true => files.with_contents(EnvConfigFileKind::Config, ""),
        false => files.include_default_config_file(true),
    };
    let files = match is_closed("AWS_SHARED_CREDENTIALS_FILE", "credentials") {
        true => files.with_contents(EnvConfigFileKind::Credentials, ""),
        false => files.include_default_credentials_file(true),
    };
    files.build()
}

async fn assume(
    role: &Role,
    sdk: &aws_config::SdkConfig,
    base: SharedCredentialsProvider,
) -> Result<Credentials, CredentialsError> {
    let provider = AssumeRoleProvider::builder(&role.arn)
        .session_name(&role.session_name)
        .session_length(Duration::from_secs(role.duration_secs.into()))
        .configure(sdk)
        .build_from_provider(base)
        .await;
    provider.provide_credentials().await
}

/// The region whose STS is asked: what the directives, the environment or the profile tell, else its partition's first.
async fn region(identity: &Identity, asking: &ProviderConfig) -> Region {
    if let Some(region) = &identity.region {
        return Region::new(region.clone());
    }
    told_region(asking).await.unwrap_or_else(|| {
        Region::new(match identity.role.as_ref().and_then(|role| role.arn.split(':').nth(1)) {
            Some("aws-cn") => "cn-north-1",
            Some("aws-us-gov") => "us-gov-west-1",
            _ => "us-east-1",
        })
    })
}

/// The region that the environment or the profile tells.
pub fn fetch_region() -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
    runtime.block_on(told_region(&ProviderConfig::default())).map(|region| region.to_string())
}

async fn told_region(asking: &ProviderConfig) -> Option<Region> {
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return Some(region);
    }
    let profile = ProfileFileRegionProvider::builder().configure(asking).profile_files(profile_files()).build();
    profile.region().await
}

/// An error with its causes. Only their `Display`: what is behind may show an answer that was read.
fn told(error: &CredentialsError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        // Some repeat what they are caused by.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    // Some show the answer itself.
    let text =
        ["Response {", "SdkBody"].iter().fold(text.as_str(), |text, shown| text.split(shown).next().unwrap_or(text));
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(WHY_LEN_MAX).collect()
}

/// Sends a request of the SDK's over a connection of its own.
#[derive(Debug)]
struct Connector(Agent);

impl Connector {
    fn new(settings: &HttpConnectorSettings) -> Self {
        let read_timeout = settings.read_timeout().unwrap_or(TIMEOUT);
        // Nothing of httpd's environment (a proxy, say) shall see credentials.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_idle_connections(0)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(settings.connect_timeout().unwrap_or(CONNECT_TIMEOUT)))
            .timeout_send_request(Some(read_timeout))
            .timeout_recv_response(Some(read_timeout))
            .timeout_recv_body(Some(read_timeout))
            .build();
        Self(Agent::new_with_config(config))
    }

    fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?;
        let (head, body) = request.into_parts();
        let body = body.bytes().ok_or_else(|| ConnectorError::user("a body that comes in pieces".into()))?.to_vec();
        let answer = self.0.run(http::Request::from_parts(head, body)).map_err(error)?;
        let (head, body) = answer.into_parts();
        let mut body = body.into_with_config().limit(ANSWER_LEN_MAX).read_to_vec().map_err(error)?;
        // Only STS says in its body what is wrong. The library shows others' bodies as they are.
        if !head.status.is_success() && !body.starts_with(b"<") {
            body.zeroize();
        }
        let answer = http::Response::from_parts(head, SdkBody::from(body));
        HttpResponse::try_from(answer).map_err(|e| ConnectorError::other(e.into(), None))
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(self.send(request))
    }
}

fn error(error: ureq::Error) -> ConnectorError {
    match error {
        ureq::Error::Timeout(_) => ConnectorError::timeout(error.into()),
        ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
            ConnectorError::io(io::Error::other(error).into())
        }
        other => ConnectorError::other(other.into(), None),
    }
}
