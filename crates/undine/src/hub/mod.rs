//! Models by name: the one place where the MODEL of every command becomes a path, and the commands around the
//! cache.

mod examine;
mod list;
mod progress;
mod pull;
mod remove;
mod show;

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use undine_hub::{Access, Beginning, Cache, Hub, HubName, ModelName, Next, PullRequest, Settings, Token};

use crate::args_hub::HubArgs;
use crate::doctor::system::free_bytes;
use crate::error::Error;
use crate::{interrupt, memory};

pub use list::{run_list, run_models};
pub use pull::run as run_pull;
pub use remove::run as run_rm;
pub use show::run as run_show;

/// Whether `--offline` was given, which every command that may fetch takes and none of them reads.
static IS_OFFLINE: AtomicBool = AtomicBool::new(false);

/// Forbids the network for the rest of the process, as HF_HUB_OFFLINE=1 does.
pub fn stay_offline() {
    IS_OFFLINE.store(true, Ordering::Relaxed);
}

/// The file or folder that MODEL means. What is not in the cache is fetched first, with progress on standard
/// error.
pub fn locate(model: &Path) -> Result<Cow<'_, Path>, Error> {
    locate_with(model, &HubArgs::default())
}

/// The same with the flags of `undine serve`.
pub fn locate_with<'a>(model: &'a Path, args: &HubArgs) -> Result<Cow<'a, Path>, Error> {
    let name = match ModelName::parse(model)? {
        ModelName::Path(path) => {
            if args.revision.is_some() || args.download_dir.is_some() {
                tracing::warn!("--revision and --download-dir have no effect: the model is a path");
            }
            return Ok(if path == model { Cow::Borrowed(model) } else { Cow::Owned(path) });
        }
        ModelName::Hub(name) => name,
    };
    let name = with_flags(name, args.revision.as_deref(), None)?;
    let mut settings = settings(args.download_dir.as_deref())?;
    if let Some(token) = &args.hf_token {
        settings.token = Token::new(token, "--hf-token")?;
    }
    let cache = Cache::new(settings.cache.clone());
    if let Some(cached) = cache.find(&name, memory::available_bytes())? {
        return Ok(Cow::Owned(cached.path));
    }
    let request = PullRequest::new(name, memory::available_bytes());
    let on_event = progress::on_stderr(&request.name);
    let judge = |files: &[Beginning]| examine::judge(&request.name.repo, files);
    let pulled = fetch(settings, &request, judge, on_event).map_err(|error| or_a_file(model, error))?;
    Ok(Cow::Owned(pulled.cached.path))
}

/// What the hub could not give may have been meant as a path: `models/LFM2.gguf` without its ending looks
/// like a repository.
fn or_a_file(model: &Path, error: Error) -> Error {
    let nearest = undine_hub::near_files(model);
    match error {
        Error::Hub(
            undine_hub::Error::NoRepository { .. }
            | undine_hub::Error::Unauthorized { .. }
            | undine_hub::Error::Unreachable { .. },
        ) if !nearest.is_empty() => Error::refused(format!(
            "there is no file or folder {}; did you mean {}? Taken as a name on the hub: {error}",
            model.display(),
            nearest.join(" or ")
        )),
        other => other,
    }
}

/// The name on the hub, for a MODEL that is no path.
pub fn name(model: &Path) -> Option<HubName> {
    match ModelName::parse(model) {
        Ok(ModelName::Hub(name)) => Some(name),
        _ => None,
    }
}

/// The environment's settings, and `--offline`, with another folder for models.
fn settings(download_dir: Option<&Path>) -> Result<Settings, Error> {
    let settings = Settings::from_env(download_dir)?;
    Ok(match IS_OFFLINE.load(Ordering::Relaxed) {
        true => Settings { access: Access::Offline, ..settings },
        false => settings,
    })
}

/// The cache of the environment.
fn cache() -> Result<Cache, Error> {
    Ok(Cache::new(settings(None)?.cache))
}

/// The name with what flags say of it, unless it says something else itself.
fn with_flags(name: HubName, revision: Option<&str>, quant: Option<&str>) -> Result<HubName, Error> {
    for (named, given, flag) in [(&name.revision, revision, "--revision"), (&name.quant, quant, "--quant")] {
        if let (Some(named), Some(given)) = (named, given)
            && !named.eq_ignore_ascii_case(given)
        {
            return Err(Error::usage(format!("the name says {named}, and {flag} says {given}")));
        }
    }
    let name = revision.map_or(Ok(name.clone()), |revision| name.with_revision(revision))?;
    Ok(quant.map_or(Ok(name.clone()), |quant| name.with_quant(quant))?)
}

/// Fetches what `judge` does not refuse; Ctrl-C ends the process at once, which loses nothing.
fn fetch(
    settings: Settings,
    request: &PullRequest,
    judge: impl Fn(&[Beginning]) -> Result<Next, String>,
    on_event: impl Fn(undine_hub::Event<'_>) + Send + Sync + 'static,
) -> Result<undine_hub::Pulled, Error> {
    let farewell = "interrupted; what has arrived is kept, the same command goes on from there";
    let request = PullRequest { free_bytes: free_bytes(&settings.cache), ..request.clone() };
    interrupt::end_at_once(farewell, || Ok(Hub::new(settings)?.pull_examined(&request, &judge, on_event)?))
}
