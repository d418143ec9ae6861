// Schemas as TypeScript libraries write them, one JSON object a line on standard output; `make.py` runs this and checks the instances.
// The versions are those of package.json, which `make.py` installs.
import { createRequire } from 'node:module';
import { z } from 'zod';
import { z as z3 } from 'zod/v3';
import { zodToJsonSchema } from 'zod-to-json-schema';
import * as v from 'valibot';
import { toJsonSchema } from '@valibot/to-json-schema';
import { Type as T } from '@sinclair/typebox';
import { type } from 'arktype';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';

const require = createRequire(import.meta.url);
const version = (name) => `${name} ${require(`${process.cwd()}/node_modules/${name}/package.json`).version}`;

function put(from, name, schema, valid = [], invalid = []) {
  // The library's object may have more than its JSON.
  console.log(JSON.stringify({ from, name, schema: JSON.parse(JSON.stringify(schema)), valid, invalid }));
}

const zod = {
  order: [
    z.object({
      id: z.uuid(),
      email: z.email(),
      site: z.url().optional(),
      amount: z.number().positive().max(1000),
      count: z.int().min(1).max(10),
      at: z.iso.datetime(),
      day: z.iso.date().nullable(),
      state: z.enum(['new', 'paid', 'sent']).default('new'),
      note: z.string().min(2).max(20).nullish(),
    }),
    [{ id: '123e4567-e89b-42d3-a456-426614174000', email: 'ada@example.com', amount: 1.5, count: 3, at: '2024-02-29T12:00:00Z', day: null, state: 'paid' }],
    [
      { id: 'x', email: 'ada@example.com', amount: 1.5, count: 3, at: '2024-02-29T12:00:00Z', day: null, state: 'paid' },
      { id: '123e4567-e89b-42d3-a456-426614174000', email: 'ada@example.com', amount: 1.5, count: 30, at: '2024-02-29T12:00:00Z', day: null, state: 'paid' },
      { id: '123e4567-e89b-42d3-a456-426614174000', email: 'ada@example.com', amount: 1.5, count: 3, at: '2024-02-29T12:00:00Z', day: null, state: 'lost' },
    ],
  ],
  tuple: [
    z.object({ point: z.tuple([z.number(), z.number()]), mixed: z.tuple([z.string(), z.int()]).rest(z.boolean()) }),
    [{ point: [1, 2], mixed: ['a', 1] }, { point: [0.5, -2], mixed: ['a', 1, true, false] }],
    [{ point: [1], mixed: ['a', 1] }, { point: [1, 2, 3], mixed: ['a', 1] }, { point: [1, 2], mixed: [1, 'a'] }],
  ],
  record: [
    z.object({ byName: z.record(z.string(), z.int()), byKey: z.record(z.enum(['a', 'b']), z.boolean()), some: z.partialRecord(z.enum(['x', 'y']), z.string()) }),
    [{ byName: { q: 1 }, byKey: { a: true, b: false }, some: { y: '' } }, { byName: {}, byKey: { a: true, b: true }, some: {} }],
    [{ byName: { q: 'x' }, byKey: { a: true, b: false }, some: {} }, { byName: {}, byKey: { a: true }, some: {} }, { byName: {}, byKey: { a: true, b: true }, some: { z: '' } }],
  ],
  keys: [z.object({ codes: z.record(z.string().regex(/^[a-z]{2}$/), z.int()) }), [{ codes: { de: 1, fr: 2 } }, { codes: {} }], [{ codes: { DE: 1 } }]],
  shapes: [
    z.object({
      shape: z.discriminatedUnion('kind', [
        z.object({ kind: z.literal('circle'), r: z.number() }),
        z.object({ kind: z.literal('box'), w: z.number(), h: z.number() }),
      ]),
      either: z.union([z.string(), z.int(), z.null()]),
      flag: z.literal([true, 'yes', 1]),
    }),
    [{ shape: { kind: 'circle', r: 1 }, either: null, flag: 'yes' }, { shape: { kind: 'box', w: 1, h: 2 }, either: 3, flag: true }],
    [{ shape: { kind: 'circle', w: 1, h: 2 }, either: null, flag: 'yes' }, { shape: { kind: 'circle', r: 1 }, either: 1.5, flag: 1 }, { shape: { kind: 'circle', r: 1 }, either: 1, flag: 'no' }],
  ],
  both: [z.object({ pair: z.intersection(z.object({ a: z.string() }), z.object({ b: z.int() })) }), [{ pair: { a: 'x', b: 1 } }], [{ pair: { a: 'x' } }, { pair: { b: 1 } }]],
  nothing: [z.object({ a: z.never().optional(), any: z.any(), rest: z.unknown().optional() }).loose(), [{ any: [1] }], [{ a: 1, any: 1 }]],
  texts: [
    z.object({ code: z.string().startsWith('X-').length(5), up: z.string().regex(/^[A-Z]+$/), b64: z.base64(), ip: z.ipv4(), cuid: z.cuid2(), time: z.iso.time(), left: z.string().includes('@'), word: z.templateLiteral(['v', z.int()]) }),
    [{ code: 'X-123', up: 'ABC', b64: 'aGk=', ip: '10.0.0.1', cuid: 'abc123', time: '12:00:00', left: 'a@b', word: 'v12' }],
    [{ code: 'X-1', up: 'ABC', b64: 'aGk=', ip: '10.0.0.1', cuid: 'abc123', time: '12:00:00', left: 'a@b', word: 'v12' }, { code: 'X-123', up: 'aBC', b64: 'aGk=', ip: '10.0.0.1', cuid: 'abc123', time: '12:00:00', left: 'a@b', word: 'v12' }],
  ],
  lists: [z.object({ tags: z.array(z.string()).min(1).max(3), pairs: z.array(z.tuple([z.string(), z.int()])).nonempty(), step: z.number().multipleOf(0.5) }), [{ tags: ['a'], pairs: [['x', 1]], step: 1.5 }], [{ tags: [], pairs: [['x', 1]], step: 1.5 }, { tags: ['a'], pairs: [], step: 1.5 }, { tags: ['a'], pairs: [['x', 1]], step: 0.3 }]],
};
const Node = z.object({ name: z.string(), get children() { return z.array(Node); }, get parent() { return Node.nullish(); } });
zod.tree = [Node, [{ name: 'a', children: [{ name: 'b', children: [] }] }], [{ name: 'a', children: [{ children: [] }] }, { name: 'a' }]];
zod.meta = [z.object({ who: z.object({ n: z.int() }).meta({ id: 'Who', title: 'Who', examples: [{ n: 1 }] }), again: z.object({ n: z.int() }).meta({ id: 'Again' }).optional().describe('once more') }), [{ who: { n: 1 } }, { who: { n: 1 }, again: { n: 2 } }], [{ who: {} }, { who: { n: 1 }, again: { n: 'x' } }]];
for (const [name, [schema, valid, invalid]] of Object.entries(zod)) {
  put(version('zod'), name, z.toJSONSchema(schema), valid, invalid);
  put(version('zod'), `${name} for input`, z.toJSONSchema(schema, { io: 'input', reused: 'ref', unrepresentable: 'any' }), valid, name === 'nothing' ? invalid : []);
  put(version('zod'), `${name} in draft 7`, z.toJSONSchema(schema, { target: 'draft-7' }), valid, []);
  put(version('zod'), `${name} for OpenAPI 3.0`, z.toJSONSchema(schema, { target: 'openapi-3.0' }), [], []);
}
for (const name of ['order', 'shapes', 'lists', 'tree']) {
  try {
    put(version('openai'), `zod ${name} as a response format`, zodResponseFormat(zod[name][0], 'x').json_schema.schema, [], []);
  } catch (error) { console.error(`openai ${name}: ${error.message}`); }
}

const old = {
  person: [z3.object({ name: z3.string().min(1), age: z3.number().int().positive().optional(), tags: z3.set(z3.string()), born: z3.date(), map: z3.map(z3.string(), z3.number()), big: z3.bigint().optional() }), [{ name: 'a', tags: ['x'], born: '2024-01-01T00:00:00Z', map: [['a', 1]] }], [{ name: '', tags: [], born: '2024-01-01T00:00:00Z', map: [] }]],
  union: [z3.object({ u: z3.union([z3.object({ a: z3.string() }), z3.object({ b: z3.number() })]), d: z3.discriminatedUnion('t', [z3.object({ t: z3.literal('a'), x: z3.number() }), z3.object({ t: z3.literal('b') })]), n: z3.nativeEnum({ A: 1, B: 'b' }), both: z3.object({ a: z3.string() }).and(z3.object({ b: z3.string() })) }), [{ u: { a: 'x' }, d: { t: 'b' }, n: 'b', both: { a: '', b: '' } }], [{ u: {}, d: { t: 'b' }, n: 'b', both: { a: '', b: '' } }]],
  tuple: [z3.object({ t: z3.tuple([z3.string(), z3.number()]), r: z3.record(z3.string().min(2), z3.number()), nullable: z3.string().nullable(), never: z3.never().optional() }), [{ t: ['a', 1], r: { ab: 1 }, nullable: null }], [{ t: ['a'], r: {}, nullable: null }, { t: ['a', 1], r: { a: 1 }, nullable: null }]],
  strict: [z3.object({ email: z3.string().email(), url: z3.string().url(), uuid: z3.string().uuid(), re: z3.string().regex(/^a+$/), ip: z3.string().ip(), x: z3.object({ y: z3.any() }).strict() }), [], []],
};
for (const [name, [schema, valid, invalid]] of Object.entries(old)) {
  put(version('zod-to-json-schema'), name, zodToJsonSchema(schema), valid, invalid);
  put(version('zod-to-json-schema'), `${name} by name`, zodToJsonSchema(schema, 'Answer'), [], []);
  put(version('zod-to-json-schema'), `${name} for OpenAPI 3`, zodToJsonSchema(schema, { target: 'openApi3' }), [], []);
  put(version('zod-to-json-schema'), `${name} for OpenAI`, zodToJsonSchema(schema, { target: 'openAi' }), [], []);
}

const valibot = {
  user: [v.object({ name: v.pipe(v.string(), v.minLength(1), v.maxLength(10)), email: v.pipe(v.string(), v.email()), age: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(150))), role: v.picklist(['admin', 'user']), on: v.pipe(v.string(), v.isoDate()) }), [{ name: 'a', email: 'a@b.co', age: 3, role: 'user', on: '2024-01-01' }], [{ name: '', email: 'a@b.co', role: 'user', on: '2024-01-01' }, { name: 'a', email: 'a@b.co', age: 200, role: 'user', on: '2024-01-01' }]],
  variant: [v.variant('type', [v.object({ type: v.literal('a'), x: v.number() }), v.strictObject({ type: v.literal('b'), y: v.nullable(v.string()) })]), [{ type: 'a', x: 1 }, { type: 'b', y: null }], [{ type: 'a', y: null }, { type: 'b', y: null, z: 1 }]],
  tuples: [v.object({ strict: v.strictTuple([v.string(), v.number()]), loose: v.looseTuple([v.boolean()]), rest: v.tupleWithRest([v.string()], v.number()), record: v.record(v.pipe(v.string(), v.regex(/^x/)), v.boolean()), list: v.pipe(v.array(v.string()), v.nonEmpty(), v.maxLength(2)) }), [{ strict: ['a', 1], loose: [true, 'x'], rest: ['a', 1, 2], record: { xa: true }, list: ['a'] }], [{ strict: ['a'], loose: [true], rest: ['a'], record: {}, list: ['a'] }, { strict: ['a', 1], loose: [true], rest: ['a'], record: {}, list: [] }]],
  both: [v.intersect([v.object({ a: v.string() }), v.object({ b: v.number() })]), [{ a: '', b: 1 }], [{ a: '' }]],
  union: [v.object({ u: v.union([v.string(), v.number(), v.array(v.string())]), n: v.nullish(v.string()), e: v.enum({ A: 1, B: 2 }), any: v.any() }), [{ u: ['a'], n: null, e: 2, any: {} }], [{ u: true, n: null, e: 2, any: {} }, { u: 'a', n: null, e: 3, any: {} }]],
};
for (const [name, [schema, valid, invalid]] of Object.entries(valibot)) {
  put(version('@valibot/to-json-schema'), name, toJsonSchema(schema, { errorMode: 'ignore' }), valid, invalid);
  put(version('@valibot/to-json-schema'), `${name} for OpenAPI 3.0`, toJsonSchema(schema, { errorMode: 'ignore', target: 'openapi-3.0' }), [], []);
}

const typebox = {
  user: [T.Object({ name: T.String({ minLength: 1 }), age: T.Optional(T.Integer({ minimum: 0 })), mail: T.String({ format: 'email' }), id: T.String({ format: 'uuid' }), kind: T.Union([T.Literal('a'), T.Literal('b')]) }, { additionalProperties: false }), [{ name: 'x', age: 1, mail: 'a@b.co', id: '123e4567-e89b-42d3-a456-426614174000', kind: 'b' }], [{ name: '', mail: 'a@b.co', id: '123e4567-e89b-42d3-a456-426614174000', kind: 'b' }, { name: 'x', mail: 'a@b.co', id: '123e4567-e89b-42d3-a456-426614174000', kind: 'c' }]],
  tuples: [T.Object({ t: T.Tuple([T.String(), T.Number()]), empty: T.Tuple([]), set: T.Array(T.Integer(), { uniqueItems: true }), many: T.Array(T.String(), { uniqueItems: false, minItems: 1 }), has: T.Optional(T.Array(T.Integer(), { contains: T.Literal(1), minContains: 0 })) }), [{ t: ['a', 1], empty: [], set: [1, 2], many: ['a', 'a'], has: [1, 2] }], [{ t: ['a'], empty: [], set: [1], many: ['a'] }, { t: ['a', 1], empty: [1], set: [1], many: ['a'] }]],
  records: [T.Object({ r: T.Record(T.String(), T.Number()), k: T.Record(T.Union([T.Literal('a'), T.Literal('b')]), T.Boolean()), p: T.Record(T.RegExp(/^x-/), T.String()), i: T.Record(T.Integer(), T.String()) }), [{ r: { q: 1 }, k: { a: true, b: false }, p: { 'x-a': '' }, i: { 1: 'a' } }], [{ r: { q: 'x' }, k: { a: true, b: false }, p: {}, i: {} }, { r: {}, k: { a: true }, p: {}, i: {} }]],
  both: [T.Intersect([T.Object({ a: T.String() }), T.Object({ b: T.Integer() })], { unevaluatedProperties: false }), [{ a: 'x', b: 1 }], [{ a: 'x' }]],
  not: [T.Object({ n: T.Not(T.String()), never: T.Optional(T.Never()), any: T.Any(), unknown: T.Unknown(), date: T.Date(), bytes: T.Uint8Array(), nullable: T.Union([T.String(), T.Null()]), literal: T.TemplateLiteral('on${A|B}') }), [], []],
  tree: [T.Recursive((This) => T.Object({ value: T.Integer(), next: T.Optional(This), all: T.Array(This) }), { $id: 'Tree' }), [{ value: 1, all: [] }, { value: 1, next: { value: 2, all: [] }, all: [{ value: 3, all: [] }] }], [{ value: 1 }, { value: 1, all: [{ value: 'x', all: [] }] }]],
  module: [T.Module({ A: T.Object({ b: T.Ref('B'), x: T.String() }), B: T.Object({ a: T.Optional(T.Ref('A')) }) }).Import('A'), [{ b: {}, x: '' }, { b: { a: { b: {}, x: 'y' } }, x: '' }], [{ b: 1, x: '' }]],
};
for (const [name, [schema, valid, invalid]] of Object.entries(typebox)) put(version('@sinclair/typebox'), name, schema, valid, invalid);

put(version('arktype'), 'user', type({ name: 'string > 0', 'age?': '0 <= number.integer <= 150', email: 'string.email', tags: 'string[] >= 1', kind: "'a' | 'b' | null" }).toJsonSchema({ fallback: (c) => c.base }), [], []);
put(version('openai'), 'zodFunction', zodFunction({ name: 'f', parameters: z.object({ q: z.string(), n: z.int().nullable() }) }).function.parameters, [{ q: 'a', n: null }], [{ q: 'a' }]);
