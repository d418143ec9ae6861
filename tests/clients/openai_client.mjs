// Checks a running server with OpenAI's own Node client.
//
// Usage: node openai_client.mjs BASE_URL API_KEY      (BASE_URL such as http://127.0.0.1:8000/v1; npm install first)
import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Count to three." }];
const base = { model, messages, temperature: 0 };
const LONG = 400; // tokens: enough for every value that Trip allows

// Bounded, so that even random weights come to an end.
const Trip = z.object({ city: z.enum(["Paris", "Oslo"]), days: z.number().int().min(1).max(7), rain: z.boolean() });

test("chat, whole and streamed, says the same", async () => {
  const whole = await client.chat.completions.create({ ...base, max_tokens: 8 });
  const stream = await client.chat.completions.create({
    ...base,
    max_tokens: 8,
    stream: true,
    stream_options: { include_usage: true },
  });
  let content = "";
  let usage;
  for await (const chunk of stream) {
    content += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(content, whole.choices[0].message.content ?? "");
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("a parsed answer follows its schema", async () => {
  const completion = await client.chat.completions.parse({
    ...base,
    max_tokens: LONG,
    temperature: 1,
    seed: 4,
    response_format: zodResponseFormat(Trip, "trip"),
  });
  Trip.parse(completion.choices[0].message.parsed);
});

test("a required tool is called with valid arguments, streamed too", async () => {
  const fields = {
    ...base,
    max_tokens: LONG,
    tools: [zodFunction({ name: "book", parameters: Trip })],
    tool_choice: "required",
    parallel_tool_calls: false,
  };
  const completion = await client.chat.completions.parse(fields);
  const [call] = completion.choices[0].message.tool_calls;
  assert.equal(completion.choices[0].finish_reason, "tool_calls");
  assert.equal(call.function.name, "book");
  Trip.parse(call.function.parsed_arguments);
  const runner = client.chat.completions.stream(fields);
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
});

test("errors carry the field and the status", async () => {
  await assert.rejects(client.chat.completions.create({ ...base, temperature: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  const stranger = new OpenAI({ baseURL, apiKey: "wrong-key", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("an abandoned stream leaves the server well", async () => {
  const stream = await client.chat.completions.create({ ...base, max_tokens: LONG, stream: true });
  for await (const _ of stream) break;
  const after = await client.chat.completions.create({ ...base, max_tokens: 2 });
  assert.equal(after.choices.length, 1);
});
