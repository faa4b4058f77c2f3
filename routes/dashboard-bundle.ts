import { join } from "node:path";

/**
 * Bundles the document, script and style of the dashboard, which takes some ten milliseconds. The names of script and style contain
 * a hash of their content. The executable contains the result instead of this function.
 */
export async function bundleDashboard(): Promise<{ name: string; type: string; text: string }[]> {
  // A relative path, so that the page also works below a path prefix of a proxy.
  const { outputs } = await Bun.build({
    entrypoints: [join(import.meta.dir, "dashboard", "page.html")],
    minify: true,
    target: "browser",
    publicPath: "dashboard/",
  });
  const files = outputs.map(async (output) => {
    return { name: output.path.replace(/^.*\//, ""), type: output.type, text: await output.text() };
  });
  return await Promise.all(files);
}
