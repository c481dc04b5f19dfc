// A client for the methods of a document, over HTTP.
import type { Methods } from "./types.js";

// RPCError is the error of a call that the server has answered with an error.
export class RPCError extends Error {
  constructor(readonly code: number, message: string, readonly data?: unknown) {
    super(message);
  }
}

interface Reply {
  id?: number | null;
  result?: unknown;
  error?: { code: number; message: string; data?: unknown };
}

export class Client {
  #lastId = 0;

  constructor(readonly url: string) {}

  // call calls a method. The types of params and of the result are those of the document.
  async call<M extends keyof Methods>(method: M, params: Methods[M]["params"]): Promise<Methods[M]["result"]> {
    const id = ++this.#lastId;
    const response = await fetch(this.url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id, method, params }),
    });
    if (!response.ok) throw new Error(`HTTP status ${response.status}`);
    const reply = (await response.json()) as Reply;
    if (reply.error) throw new RPCError(reply.error.code, reply.error.message, reply.error.data);
    if (reply.id !== id) throw new Error("the reply is not for the call");
    return reply.result as Methods[M]["result"];
  }
}
