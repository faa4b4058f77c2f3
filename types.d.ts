declare module "*.lua" {
  const source: string;
  export default source;
}
declare module "*.sql" {
  const source: string;
  export default source;
}
/** With `type: "file"`: the path of the file, also inside the executable. */
declare module "swagger-ui-dist/*" {
  const path: string;
  export default path;
}
