/** Starts a command on a pseudo-terminal of its own, as a person does: Ctrl-C comes as a key. */
export function startOnTerminal(command: string[], env: Record<string, string>) {
  let text = "";
  const decoder = new TextDecoder();
  const child = Bun.spawn(command, {
    env: { PATH: process.env.PATH ?? "", TERM: "xterm", ...env },
    terminal: {
      cols: 120,
      rows: 40,
      data(_, data) {
        text += decoder.decode(data, { stream: true });
      },
    },
  });
  return {
    child,
    output: () => text,
    type: (keys: string) => child.terminal?.write(keys),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
      child.terminal?.close();
    },
  };
}

/** The lines that somebody sees at the end; the sequences are those that a bar is made of. Others are an error. */
export function screenOf(output: string): string[] {
  const lines: string[] = [""];
  let [row, column] = [0, 0];
  let saved = [0, 0] as [number, number];
  const put = (text: string) => {
    const line = lines[row] ?? "";
    lines[row] = line.slice(0, column).padEnd(column) + text + line.slice(column + text.length);
    column += text.length;
  };
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal is steered by them.
  for (const [part] of output.matchAll(/\x1b\[[?\d;]*[A-Za-z]|\x1b[78]|[\r\n]|[^\x1b\r\n]+|\x1b/g)) {
    if (part === "\n") lines[++row] ??= "";
    else if (part === "\r" || part === "\x1b[1G" || part === "\x1b[G") column = 0;
    else if (part === "\x1b7") saved = [row, column];
    else if (part === "\x1b8") [row, column] = saved;
    else if (part === "\x1b[0K" || part === "\x1b[K") lines[row] = (lines[row] ?? "").slice(0, column);
    else if (part === "\x1b[2K") lines[row] = "";
    else if (part.startsWith("\x1b[") && part.endsWith("m")) continue;
    else if (part.startsWith("\x1b")) throw new Error(`The terminal was sent ${JSON.stringify(part)}`);
    else put(part);
  }
  return lines.map((line) => line.trimEnd());
}
