import { describe, expect, test } from "bun:test";
import { allowedSources } from "../../src/sources/allowed-sources.ts";
import { parseSource, type RemoteReference } from "../../src/sources/source-reference.ts";
import { thrownBy } from "../helpers/thrown.ts";

const isAllowed = (prefix: string, source: string): boolean => allowedSources([prefix])(parseSource(source, () => false) as RemoteReference);

describe("a source that the admin key may load", () => {
  test.each([
    ["hf://team", "team/sql"],
    ["hf://team", "hf://team/sql/fr@v1"],
    ["hf://team/sql", "team/sql@main"],
    ["hf://team/sql", "hf://team/sql/fr"],
    ["hf://team/many/fr", "hf://team/many/fr"],
    ["s3://bucket/team", "s3://bucket/team/sql"],
    ["s3://bucket/team", "s3://bucket/team"],
    ["https://models.example/a", "https://models.example/a/b.nemo"],
    ["https://models.example", "https://MODELS.example:443/x"],
  ])("under %s is %s", (prefix, source) => {
    expect(isAllowed(prefix, source)).toBe(true);
  });

  test.each([
    ["hf://team", "teams/sql"],
    ["hf://team", "other/team"],
    ["hf://team/sql", "team/sql2"],
    ["hf://team/many/fr", "team/many"],
    ["hf://team/many/fr", "hf://team/many/french"],
    ["s3://bucket/team", "s3://bucket/teams/sql"],
    ["s3://bucket/team", "s3://bucket2/team/sql"],
    ["s3://bucket/team", "hf://bucket/team"],
    ["https://models.example/a", "https://models.example/ab"],
    ["https://models.example/a", "https://models.example/a/../b"],
    ["https://models.example/a", "https://models.example/a/%2e%2e/b"],
    ["https://models.example", "https://models.example.evil/x"],
    ["https://models.example", "http://models.example/x"],
    ["https://models.example", "https://models.example:8443/x"],
  ])("under %s is not %s", (prefix, source) => {
    expect(isAllowed(prefix, source)).toBe(false);
  });

  test("is none where none is named", () => {
    expect(allowedSources([])(parseSource("team/sql", () => false) as RemoteReference)).toBe(false);
  });

  test.each(["", "team", "team/sql", "/adapters", "hf://", "s3://bucket", "ftp://host/x", "https://user@host/x"])("cannot be written %j", (prefix) => {
    expect(thrownBy(() => allowedSources([prefix]))).toMatchObject({ errorCode: "config_invalid", field: "adapter_source" });
  });
});
