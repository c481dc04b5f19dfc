// use.ts calls the methods of the shop, and prints a line for each check. A line that must
// not compile, because of the types in the document, stands below an @ts-expect-error.
import { Client, RPCError } from "./client.js";
import type { Item } from "./types.js";

declare const process: { argv: string[] };
const client = new Client(process.argv[2]!);

function check(name: string, got: unknown, want: unknown): void {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
  console.log(JSON.stringify({ check: name, ok: a === b, detail: `got ${a}, want ${b}` }));
}

const sum: number = await client.call("add", [1, 2]);
check("add", sum, 3);
check("variadic", await client.call("sum", [1, 2, 3]), 6);
check("optional, absent", await client.call("round", [1.5]), 1.5);
check("optional, given", await client.call("round", [1.5, 2]), 1.5);
const page = await client.call("find", { name: "thing", limit: 3 });
const item: Item | undefined = page.items[0];
check("by name", item && item.name, "thing");
check("no items above", item && item.parent, null);
const values: { [name: string]: number } = await client.call("values", { a: 1 });
check("any names", values, { a: 1 });
check("null", await client.call("ping", []), null);
const put = await client.call("put", [{ name: "n", price: 1, parent: null, made: "2026-01-02T03:04:05Z", size: { width: 1 } }]);
check("an object", put && put.size.width, 1);
check("no parameter names", await client.call("position", [1, 2]), "");
check("a service", await client.call("shop/totals", [{ b: 2 }]), { b: 2 });
try {
  // @ts-expect-error
  await client.call("add", ["x", 2]);
} catch (e) {
  check("error", e instanceof RPCError && e.code, -32602);
}

// Never called: only the compiler reads it.
export async function wrong(): Promise<void> {
  // @ts-expect-error
  await client.call("none", []);
  // @ts-expect-error
  await client.call("add", [1]);
  // @ts-expect-error
  await client.call("find", { limit: 3 });
  // @ts-expect-error
  const text: string = await client.call("add", [1, 2]);
  // @ts-expect-error
  await client.call("put", [{ name: "n" }]);
}
