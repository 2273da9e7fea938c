// OpenAI's SDK for Node against the service, with only `baseURL` changed.
// Usage: node client.mjs BASE_URL MODEL PICTURE SMOOTHING CERTIFYING_THE_ANSWER
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [baseURL, model, picture, smoothing, certifyingTheAnswer] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const url = `data:image/png;base64,${readFileSync(picture, "base64")}`;
const content = [
  { type: "image_url", image_url: { url } },
  { type: "text", text: "What digit is shown?" },
];
const request = {
  model,
  messages: [{ role: "user", content }],
  temperature: 0,
  smoothing: JSON.parse(smoothing),
};

const models = [];
for await (const each of client.models.list()) models.push(each.id);
assert.deepEqual(models, [model]);

const hello = { ...request, messages: [{ role: "user", content: "Hello" }], max_tokens: 2, logprobs: true };
const text = await client.chat.completions.create(hello);
assert.equal(text.choices[0].logprobs.content.length, 2);
assert.equal(text.certificates, undefined);

const { data: answer, request_id } = await client.chat.completions.create(request).withResponse();
assert.equal(answer.choices[0].message.content, "The digit is 7.");
assert.equal(answer.certificates.length, 1);
assert.equal(answer.id, `chatcmpl-${request_id}`);

let streamed = "";
let certificates = 0;
const options = { ...request, stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create(options)) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  certificates += chunk.certificates?.length ?? 0;
}
assert.equal(streamed, "The digit is 7.");
assert.equal(certificates, 1);

const helped = await client.chat.completions.stream(request).finalChatCompletion();
assert.equal(helped.choices[0].message.content, "The digit is 7.");

const certified = { ...request, smoothing: JSON.parse(certifyingTheAnswer) };
const { data: held, response } = await client.chat.completions.create(certified).withResponse();
assert.equal(held.choices[0].message.content, "The digit is 7.");
assert.equal(held.answer_certificate.outcome, "certified");
assert.ok(held.answer_certificate.radius >= certified.smoothing.target.eps);
assert.equal(response.headers.get("Smoothgate-Outcome"), "certified");

streamed = "";
const outcomes = [];
for await (const chunk of await client.chat.completions.create({ ...certified, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  if (chunk.answer_certificate) outcomes.push(chunk.answer_certificate.outcome);
}
assert.equal(streamed, "The digit is 7.");
assert.deepEqual(outcomes, ["certified"]);

const noPicture = [{ type: "image_url", image_url: { url: "data:image/png;base64,aGVsbG8=" } }];
const failures = [
  [{ temperature: -1 }, OpenAI.BadRequestError, 400, "temperature"],
  [{ model: "gpt-5" }, OpenAI.NotFoundError, 404, "model"],
  [{ messages: [{ role: "user", content: noPicture }] }, OpenAI.UnprocessableEntityError, 422, "messages.0.content.0"],
];
for (const [fields, kind, status, param] of failures) {
  await assert.rejects(client.chat.completions.create({ ...request, ...fields }), (error) => {
    assert.ok(error instanceof kind, String(error));
    assert.equal(error.status, status);
    assert.equal(error.param, param);
    assert.equal(error.type, "invalid_request_error");
    return true;
  });
}
