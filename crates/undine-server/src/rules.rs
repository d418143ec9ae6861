//! What restricts an answer: its format, its tools and how long it may think, as the grammar compiler takes
//! them. Compiling them may take long, and has places of its own.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use undine_core::{TenantId, TokenId};
use undine_text::grammar::{
    AnswerFormat, AnswerRules, BUDGET, CompiledRules, GrammarCompiler, ReasoningRules, ToolChoice, ToolRules,
};
use undine_text::tools::ToolSet;
use undine_text::{Cancel, ChatTemplate, MaskWorker, TextError, Tokenizer};

use crate::generation::StartsIn;
use crate::preparing::Lane;
use crate::prompt;
use crate::render;
use crate::state::{App, Ready};
use crate::wire::chat::ChatRequest;
use crate::wire::chat::Conversation;
use crate::wire::common::SpecialTokensWanted;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::format::Format;
use crate::wire::thinking::Thinking;

/// The compiler of a server's grammars, made when the first one is needed.
pub(crate) struct Grammars {
    /// As urgent as the engine, whose thread starts it: a step waits for masks.
    masks: Result<Arc<MaskWorker>, String>,
    compiler: OnceLock<Result<GrammarCompiler, String>>,
}

/// What is asked of one request's answers.
pub(crate) struct Restriction {
    rules: AnswerRules,
    /// The field that names the format.
    format_path: String,
    /// Where the schemas of the tools are, by the tools' names.
    schema_paths: Vec<(String, String)>,
}

/// How a chat's answers are made and read.
pub(crate) struct Answering {
    pub(crate) restriction: Option<Restriction>,
    /// The tools whose calls are looked for.
    pub(crate) tools: Option<Arc<ToolSet>>,
    pub(crate) special: SpecialTokensWanted,
    /// What the model may not say because calls are forbidden.
    pub(crate) forbidden: Option<TokenId>,
}

/// Works out the rules of a chat whose prompt leaves the answer where `starts_in` says.
pub(crate) fn of_chat(ready: &Ready, request: &ChatRequest, starts_in: StartsIn) -> ApiResult<Answering> {
    let ChatRequest { common, conversation, calling, .. } = request;
    let mut answering =
        Answering { restriction: None, tools: None, special: common.special, forbidden: None };
    let mut tools = None;
    if !conversation.tools.is_empty() {
        let all = tool_set(&conversation.tools)?;
        match (ready.tool_call_start(), &calling.choice) {
            (Some(start), None) => answering.forbidden = Some(start),
            (Some(_), Some(choice)) => {
                let some = calling.callable.len() < conversation.tools.len();
                let set = if some { tool_set(&calling.callable)? } else { all };
                answering.tools = Some(Arc::clone(&set));
                tools = Some(ToolRules { set, choice: choice.clone(), parallel: calling.parallel });
            }
            (None, None | Some(ToolChoice::Auto)) => {
                // The markers around a call are special tokens: without them the client could not find it.
                answering.special = SpecialTokensWanted::Keep;
            }
            (None, Some(_)) => {
                let message = "this server does not read tool calls, so none can be required; use \"auto\"";
                return Err(ApiError::field("tool_choice", message));
            }
        }
    }
    let thinking = render::thinking(ready, conversation.thinking);
    let budget = match thinking {
        Thinking::Budget(tokens) => Some(tokens),
        Thinking::Default | Thinking::Off | Thinking::Unlimited => None,
    };
    let reasoning = match starts_in {
        StartsIn::Unsplit => ReasoningRules::None,
        StartsIn::Content if thinking == Thinking::Off || !thinks(ready, conversation) => {
            ReasoningRules::None
        }
        StartsIn::Content => ReasoningRules::MayThink { budget },
        StartsIn::Reasoning => ReasoningRules::StartsInside { budget },
    };
    let bounded = budget.is_some() && reasoning != ReasoningRules::None;
    if common.format.is_some() || tools.is_some() || bounded {
        let (format, format_path) = format_of(common.format.as_ref());
        answering.restriction = Some(Restriction {
            rules: AnswerRules { format, tools, reasoning },
            format_path,
            schema_paths: schema_paths(conversation),
        });
    }
    Ok(answering)
}

/// Whether the model may open a thought: its template knows thoughts. Vocabularies have the markers either
/// way, and a model that never learned them could fall into a thought where the start of a call is all it may
/// say instead.
fn thinks(ready: &Ready, conversation: &Conversation) -> bool {
    let traits = render::template_of(ready, conversation).map(ChatTemplate::traits);
    traits.is_some_and(|traits| traits.thoughts || traits.drops_past_thoughts)
}

/// The rules of a completion: it can only have a format.
pub(crate) fn of_completion(format: Option<&Format>) -> Option<Restriction> {
    let (format, format_path) = format_of(Some(format?));
    let rules = AnswerRules { format, tools: None, reasoning: ReasoningRules::None };
    Some(Restriction { rules, format_path, schema_paths: Vec::new() })
}

fn schema_paths(conversation: &Conversation) -> Vec<(String, String)> {
    let name = |tool: &Value| tool["function"]["name"].as_str().unwrap_or_default().to_owned();
    conversation.tools.iter().map(name).zip(conversation.schema_paths.iter().cloned()).collect()
}

fn format_of(format: Option<&Format>) -> (AnswerFormat, String) {
    format.map_or((AnswerFormat::Free, String::new()), |format| (format.rule.clone(), format.path.clone()))
}

fn tool_set(tools: &[Value]) -> ApiResult<Arc<ToolSet>> {
    ToolSet::new(tools).map(Arc::new).map_err(|error| {
        // The error begins with the path of what is wrong.
        let text = error.to_string();
        match text.split_once(": ") {
            Some((path, message)) if path.starts_with("tools[") => ApiError::field(path, message),
            _ => ApiError::field("tools", text),
        }
    })
}

impl Grammars {
    /// For a model with this tokenizer. To be called on the engine's thread.
    pub(crate) fn new(tokenizer: Option<&Tokenizer>) -> Self {
        let masks = tokenizer.ok_or("there is no tokenizer".to_owned());
        let masks =
            masks.and_then(|tokenizer| MaskWorker::start(tokenizer).map_err(|error| error.to_string()));
        Self { masks: masks.map(Arc::new), compiler: OnceLock::new() }
    }

    fn compiler(&self, ready: &Ready, path: &str) -> ApiResult<&GrammarCompiler> {
        // Only to refuse models without text.
        prompt::tokenizer(ready, path)?;
        let make = || {
            let tokenizer = ready.model.tokenizer.as_ref().ok_or("there is no tokenizer")?;
            let masks = self.masks.clone()?;
            let isolation = ready.model.helpers.as_ref().map(|helpers| (helpers.program().clone(), BUDGET));
            GrammarCompiler::with(tokenizer, masks, isolation).map_err(|error| error.to_string())
        };
        self.compiler.get_or_init(make).as_ref().map_err(|error| {
            ApiError::field(path, format!("this model's answers cannot be restricted: {error}"))
        })
    }

    fn are_made(&self) -> bool {
        self.compiler.get().is_some()
    }

    fn has_at_hand(&self, rules: &AnswerRules) -> bool {
        matches!(self.compiler.get(), Some(Ok(compiler)) if compiler.is_at_hand(rules))
    }
}

/// Compiles the rules of a request, if it has any, for all its choices.
pub(crate) async fn compile(
    app: &App,
    ready: &Arc<Ready>,
    tenant: TenantId,
    restriction: Option<Restriction>,
) -> ApiResult<Option<CompiledRules>> {
    let Some(restriction) = restriction else { return Ok(None) };
    if !ready.grammars.are_made() {
        // It takes its time once for everybody, and is nobody's fault.
        let (served, path) = (Arc::clone(ready), restriction.path().to_owned());
        let make = move || served.grammars.compiler(&served, &path).map(drop);
        tokio::task::spawn_blocking(make).await.unwrap_or_else(|_| {
            Err(ApiError::internal(
                "sorting the vocabulary failed; the reason is on the server's standard error",
            ))
        })?;
    }
    let at_hand = ready.grammars.has_at_hand(&restriction.rules);
    let lane = if at_hand { Lane::Body(0) } else { Lane::Program };
    let ready = Arc::clone(ready);
    app.preparing.run(tenant, lane, move |cancel| restriction.compile(&ready, cancel)).await.map(Some)
}

impl Restriction {
    fn compile(&self, ready: &Ready, cancel: &Cancel) -> ApiResult<CompiledRules> {
        let compiler = ready.grammars.compiler(ready, self.path())?;
        compiler.prepare(&self.rules, cancel).map_err(|error| self.blame(compiler, &error, cancel))
    }

    /// The field that asked for it.
    fn path(&self) -> &str {
        match (&self.rules.format, &self.rules.tools) {
            (AnswerFormat::Free, None) => "thinking_token_budget",
            (AnswerFormat::Free, Some(_)) => "tools",
            (_, _) => &self.format_path,
        }
    }

    /// Finds out whether the format is at fault, or which tool.
    fn blame(&self, compiler: &GrammarCompiler, error: &TextError, cancel: &Cancel) -> ApiError {
        let alone = |tools: Option<ToolRules>| {
            let reasoning = ReasoningRules::None;
            compiler.prepare(&AnswerRules { format: AnswerFormat::Free, tools, reasoning }, cancel).err()
        };
        // What took too long once is not tried again.
        let is_of_rules =
            matches!(error, TextError::Grammar(_) | TextError::Tools(_) | TextError::GrammarLimit { .. });
        let fault =
            self.rules.tools.as_ref().filter(|_| is_of_rules).and_then(|tools| alone(Some(tools.clone())));
        match fault {
            Some(error) => ApiError::text(self.tool_path(&error), &error),
            None => ApiError::text(self.path(), error),
        }
    }

    /// The schema that an error speaks of: it names the tool.
    fn tool_path(&self, error: &TextError) -> &str {
        let text = error.to_string();
        let is_named = |name: &String| text.contains(&format!("the tool {name:?}"));
        self.schema_paths.iter().find(|(name, _)| is_named(name)).map_or("tools", |(_, path)| path)
    }
}
