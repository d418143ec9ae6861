// Checks a running server with the Vercel AI SDK.
//
// Usage: node ai_sdk.mjs BASE_URL API_KEY      (BASE_URL such as http://127.0.0.1:8000/v1; npm install first)
import assert from "node:assert/strict";
import test from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, apiKey] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${apiKey}` };
const models = await (await fetch(`${baseURL}/models`, { headers })).json();
const provider = createOpenAICompatible({
  name: "undine",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(models.data[0].id);
const LONG = 400; // tokens: enough for every value that Trip allows
const base = { model, prompt: "Count to three.", temperature: 0, maxRetries: 0 };

// Bounded, so that even random weights come to an end.
const Trip = z.object({ city: z.enum(["Paris", "Oslo"]), days: z.number().int().min(1).max(7), rain: z.boolean() });

test("text, whole and streamed, is the same", async () => {
  const whole = await generateText({ ...base, maxOutputTokens: 60 });
  const stream = streamText({ ...base, maxOutputTokens: 60 });
  let text = "";
  for await (const part of stream.textStream) text += part;
  assert.equal(text, whole.text);
  assert.equal((await stream.reasoningText) ?? "", whole.reasoningText ?? "");
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});

test("an object follows its schema", async () => {
  const { output } = await generateText({
    ...base,
    maxOutputTokens: LONG,
    temperature: 1,
    seed: 4,
    output: Output.object({ schema: Trip }),
  });
  Trip.parse(output);
});

test("an object is streamed", async () => {
  const stream = streamText({ ...base, maxOutputTokens: LONG, output: Output.object({ schema: Trip }) });
  let last;
  for await (const partial of stream.partialOutputStream) last = partial;
  Trip.parse(last);
});

test("a required tool runs, and its result goes back", async () => {
  const seen = [];
  const book = tool({
    description: "Book a trip.",
    inputSchema: Trip,
    execute: async (trip) => {
      seen.push(trip);
      return { booked: true };
    },
  });
  const { steps } = await generateText({
    ...base,
    maxOutputTokens: LONG,
    tools: { book },
    toolChoice: "required",
    stopWhen: stepCountIs(2),
  });
  assert.equal(steps.length, 2);
  assert.ok(seen.length >= 2);
  seen.forEach((trip) => Trip.parse(trip));
});

test("tool calls are streamed", async () => {
  const stream = streamText({
    ...base,
    maxOutputTokens: LONG,
    tools: { book: tool({ description: "Book a trip.", inputSchema: Trip }) },
    toolChoice: { type: "tool", toolName: "book" },
  });
  const calls = [];
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "tool-call") calls.push(part);
  }
  assert.ok(calls.length >= 1);
  calls.forEach((call) => Trip.parse(call.input));
});
