//! A language model in this process, streamed as it writes. Needs the weights: `cargo run --release -- models pull smollm2:135m`.

use std::io::{Write, stdout};

use futures_util::StreamExt;
use sutazai_core::{
    model::{ChatEvent, ChatModel, ChatRequest, Message, Sampling},
    prelude::*,
};
use sutazai_llm::{
    local::{LocalChat, LocalChatConfig},
    registry::{ModelStore, Role},
};

#[tokio::main]
async fn main() -> Result<()> {
    // Without the weights this error says how to get them.
    let installed = ModelStore::from_env()?.installed("smollm2:135m").await?;
    let (weights, _) = installed.file(Role::Weights)?;
    // Cheap: the file is read at the first request.
    let model = LocalChat::new(LocalChatConfig::new(installed.model.name, weights));

    let mut request = ChatRequest::new(vec![
        Message::system("You answer in one short sentence."),
        Message::user("What is the capital of France?"),
    ]);
    request.sampling = Sampling::GREEDY; // the same answer every time
    request.max_tokens = Some(40);

    let mut events = model.chat(request).await?;
    while let Some(event) = events.next().await {
        match event? {
            ChatEvent::Text(piece) => {
                print!("{piece}");
                let _ = stdout().flush();
            }
            ChatEvent::Finish(finish) => {
                let usage = finish.usage;
                println!(
                    "\n{} tokens read, {} written, ended by {:?}",
                    usage.prompt_tokens, usage.completion_tokens, finish.stop
                );
            }
            ChatEvent::Thinking(piece) => eprint!("{piece}"),
            ChatEvent::ToolCall(call) => println!("it wants to call {}", call.name),
        }
    }
    Ok(())
}
