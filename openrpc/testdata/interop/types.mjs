// types.mjs DOCUMENT prints types of TypeScript for the methods of an OpenRPC document. The
// interface Methods has for each method its params, as an object or a list, and its result.
import { readFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const doc = JSON.parse(readFileSync(process.argv[2], "utf8"));
const object = (properties, required) => ({ type: "object", properties, required, additionalProperties: false });

function paramsOf(method) {
  if (method["x-rpcx-params"] === "any") return {};
  if (method["x-rpcx-values"]) return { type: "object", additionalProperties: method["x-rpcx-values"] };
  const required = method.params.filter(p => p.required);
  if (method.paramStructure === "by-name") {
    const all = object(Object.fromEntries(method.params.map(p => [p.name, p.schema])), required.map(p => p.name));
    return { ...all, additionalProperties: method["x-rpcx-params"] === "open" };
  }
  const rest = method.params.find(p => p["x-rpcx-variadic"]);
  const fixed = method.params.filter(p => p !== rest);
  if (fixed.length === 0) return { type: "array", items: rest ? rest.schema : [], maxItems: rest ? undefined : 0 };
  return { type: "array", items: fixed.map(p => p.schema), additionalItems: rest ? rest.schema : false, minItems: required.length,
    maxItems: rest ? undefined : fixed.length };
}

const methods = doc.methods.map(m => [m.name, object({ params: paramsOf(m), result: m.result ? m.result.schema : {} }, ["params", "result"])]);
const schema = JSON.parse(JSON.stringify({ title: "Methods", ...object(Object.fromEntries(methods), methods.map(([name]) => name)), components: doc.components }));
process.stdout.write(await compile(schema, "Methods", { bannerComment: "", format: false }));
