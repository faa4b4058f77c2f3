import { loadAwsServiceSpec } from "@aws-cdk/aws-service-spec";
import type { Property, PropertyType, SpecDatabase } from "@aws-cdk/service-spec-types";
import { YAML } from "bun";
import { type TypedValue, typeProblems } from "./schemas.ts";

/** The parts of a template that ours has. */
export interface Template {
  Parameters: Record<string, { Type: string; Default?: string | number; Description?: string }>;
  Resources: Record<string, { Type: string; DependsOn?: string; Properties: Record<string, unknown> }>;
}

/** @returns violations of AWS's specification of its resources, from which its CDK is generated */
export async function cloudFormationProblems(text: string): Promise<string[]> {
  const template = YAML.parse(text) as Template;
  const spec = await loadAwsServiceSpec();
  const writer = typeWriter(spec);
  const frame: TypedValue = { name: "template", type: FRAME, value: template };
  const resources = Object.entries(template.Resources).map(([name, resource]): TypedValue => {
    const known = resourceOf(spec, resource.Type);
    const properties = known ? writer.members(known.properties) : "never";
    return { name, type: `{ Type: string; DependsOn?: string; Properties: ${properties} }`, value: resource };
  });
  return [
    ...(await typeProblems([...resources, frame], [...DECLARATIONS, ...writer.declarations()])),
    ...unknownNames(spec, template).map((name) => `${name} is not in the template`),
    ...[...text.matchAll(/[-:] [&*]\w+/g)].map(([alias]) => `CloudFormation's YAML has no anchors: "${alias}"`),
  ];
}

const resourceOf = (spec: SpecDatabase, type: string | undefined) =>
  spec.lookup("resource", "cloudFormationType", "equals", type ?? "").at(0);

/** The parts of our template that the specification of the resources does not cover. */
const FRAME = `{
  AWSTemplateFormatVersion: "2010-09-09";
  Description: string;
  Parameters: Record<string, { Type: string; Default?: string | number; Description?: string }>;
  Resources: object;
}`;
const STATEMENT = `{
  Sid?: string;
  Effect: "Allow";
  Principal?: { Service: string };
  Action: string | string[];
  Resource?: Fn | Fn[];
}`;
/** Fn may replace any value. */
const DECLARATIONS = [
  'type Fn = { Ref: string } | { "Fn::Sub": string } | { "Fn::GetAtt": string[] };',
  `interface Policy { Version: "2012-10-17"; Statement: ${STATEMENT}[] }`,
];

/** Writes types of the specification as TypeScript. */
function typeWriter(spec: SpecDatabase) {
  const declared = new Map<string, string>();

  function members(properties: Record<string, Property>): string {
    const each = Object.entries(properties).map(
      ([name, { type, required }]) => `${name}${required ? "" : "?"}: ${of(type)}`,
    );
    return `{ ${each.join("; ")} }`;
  }

  const of = (type: PropertyType): string => `${written(type)} | Fn`;

  function written(type: PropertyType): string {
    if (type.type === "ref") return declare(type.reference.$ref);
    if (type.type === "array") return `(${of(type.element)})[]`;
    if (type.type === "map") return `Record<string, ${of(type.element)}>`;
    if (type.type === "union") return type.types.map(written).join(" | ");
    // In our template JSON values are policies only.
    if (type.type === "json") return "Policy";
    if (type.type === "tag") return "{ Key: string; Value: string | Fn }";
    if ("allowedValues" in type && type.allowedValues)
      return type.allowedValues.map((value) => JSON.stringify(value)).join(" | ");
    return { integer: "number", "date-time": "string" }[type.type as string] ?? type.type;
  }

  function declare(id: string): string {
    const definition = spec.get("typeDefinition", id);
    const name = `${definition.name}${id}`;
    // Before its members: a type may contain itself.
    if (!declared.has(name)) {
      declared.set(name, "");
      declared.set(name, `interface ${name} ${members(definition.properties)}`);
    }
    return name;
  }

  return { members, declarations: () => [...declared.values()] };
}

/** @returns names in Ref, Fn::GetAtt and Fn::Sub that are no parameter, resource or attribute */
function unknownNames(spec: SpecDatabase, { Parameters, Resources }: Template): string[] {
  const attributesOf = (resource: string) => Object.keys(resourceOf(spec, Resources[resource]?.Type)?.attributes ?? {});
  return namesIn(Resources).filter((name) => {
    const [resource = "", attribute] = name.split(".");
    if (attribute !== undefined) return !attributesOf(resource).includes(attribute);
    return !name.startsWith("AWS::") && !(name in Parameters) && !(name in Resources);
  });
}

/** An attribute follows its resource after a dot. */
function namesIn(value: unknown): string[] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    if (key === "Ref" || key === "DependsOn") return [`${inner}`];
    if (key === "Fn::GetAtt") return [(inner as string[]).join(".")];
    if (key === "Fn::Sub") return [...`${inner}`.matchAll(/\$\{([^}]+)\}/g)].map(([, name]) => name ?? "");
    return namesIn(inner);
  });
}
