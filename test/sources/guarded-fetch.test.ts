/** Nobody steers the server to places that it should not reach, and no credential leaves for another host. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isNeverAllowed, isPublic } from "../../src/sources/addresses.ts";
import { type FetchMeans, type FetchPolicy, guardedFetch, systemMeans } from "../../src/sources/guarded-fetch.ts";
import { REPOSITORY } from "../helpers/repository.ts";
import { StandIn } from "../helpers/stand-in.ts";
import { rejectionOf } from "../helpers/thrown.ts";

const HUB = "https://hub.example";
const policy: FetchPolicy = { trusted: [HUB], mayLeave: true, setting: "--source-host" };
const PUBLIC = "93.184.216.34";

interface Sent {
  readonly url: string;
  readonly host: string | null;
  readonly authorization: string | null;
  readonly serverName: string | undefined;
}

/** No network: names mean what a test says, and answers are its own. */
function pretend(names: Readonly<Record<string, readonly string[]>>, answers: readonly Response[] = []) {
  const sent: Sent[] = [];
  const left = [...answers];
  const means: FetchMeans = {
    lookup: async (host) => names[host] ?? (await Promise.reject(new Error("ENOTFOUND"))),
    proxyFor: () => null,
    fetch: async (url, init) => {
      const headers = new Headers(init.headers as Record<string, string>);
      expect(init.redirect).toBe("manual");
      sent.push({ url: url.href, host: headers.get("host"), authorization: headers.get("authorization"), serverName: (init.tls as { serverName?: string }).serverName });
      return left.shift() ?? new Response("end");
    },
  };
  const go = (url: string, own: FetchPolicy = policy) => guardedFetch(url, own, { authorization: "Bearer secret", signal: AbortSignal.timeout(5000) }, means);
  return { go, sent };
}

const to = (location: string, status = 302): Response => new Response(null, { status, headers: { location } });

describe("addresses", () => {
  test.each([
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1", "203.0.113.9",
    "::1", "fc00::1", "fd12:3456::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:c0a8:101", "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1", "fec0::1",
  ])("%s is not public, but may be named by an operator", (address) => {
    expect({ isPublic: isPublic(address), isNever: isNeverAllowed(address) }).toEqual({ isPublic: false, isNever: false });
  });

  test.each([
    "169.254.169.254", "169.254.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1", "fe80::1%eth0", "ff02::1", "::", "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "100.100.100.200", "192.0.0.192", "not an address", "",
  ])("%j is connected to for nobody", (address) => {
    expect({ isPublic: isPublic(address), isNever: isNeverAllowed(address) }).toEqual({ isPublic: false, isNever: true });
  });

  test.each([PUBLIC, "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"])("%s is public", (address) => {
    expect(isPublic(address)).toBe(true);
  });
});

describe("a request", () => {
  test("goes to the address that was judged, under the name that was asked for", async () => {
    const { go, sent } = pretend({ "hub.example": [PUBLIC] });
    await go(`${HUB}/a?b=c`);
    expect(sent).toEqual([{ url: `https://${PUBLIC}/a?b=c`, host: "hub.example", authorization: "Bearer secret", serverName: "hub.example" }]);
  });

  test("asks for a name once, so that it cannot mean another machine a moment later", async () => {
    let asked = 0;
    const sent: string[] = [];
    const means: FetchMeans = { lookup: async () => [++asked === 1 ? PUBLIC : "127.0.0.1"], proxyFor: () => null, fetch: async (url) => (sent.push(url.hostname), new Response("x")) };
    await guardedFetch(`${HUB}/`, policy, { signal: AbortSignal.timeout(5000) }, means);
    expect({ asked, sent }).toEqual({ asked: 1, sent: [PUBLIC] });
  });

  test("to a host that nobody named is refused, unless it is where the hub keeps its files", async () => {
    const closed = { ...policy, mayLeave: false };
    for (const url of ["https://other.example/", "http://hub.example/", "https://hub.example:8443/", "https://hub.example.evil.example/", "https://hub.example@evil.example/"]) {
      const { go, sent } = pretend({ "other.example": [PUBLIC], "hub.example": [PUBLIC], "hub.example.evil.example": [PUBLIC], "evil.example": [PUBLIC] });
      expect(await rejectionOf(go(url, closed))).toMatchObject({ errorCode: "source_refused" });
      expect(sent).toEqual([]);
    }
  });

  test("to a named host may be private, but never link-local", async () => {
    const inner = pretend({ "hub.example": ["10.0.0.7"] });
    await inner.go(`${HUB}/`);
    expect(inner.sent.length).toBe(1);
    const cloud = pretend({ "hub.example": ["169.254.169.254"] });
    expect(await rejectionOf(cloud.go(`${HUB}/`))).toMatchObject({ errorCode: "source_refused", message: "hub.example has an address that is not public, which is not connected to" });
    expect(cloud.sent).toEqual([]);
  });

  test("to a host that does not exist is told of", async () => {
    expect(await rejectionOf(pretend({}).go(`${HUB}/`))).toMatchObject({ errorCode: "source_unavailable", message: "the host hub.example is not found; check its name and the network" });
  });
});

describe("a redirect", () => {
  test.each([
    "https://169.254.169.254/latest/meta-data/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://0/", "https://10.0.0.1/", "https://192.168.0.1:8443/", "https://[fd00:ec2::254]/",
    "https://inner.example/", "https://both.example/", "https://cloud.example/", "https://localhost./", "https://LOCALHOST/",
    "http://169.254.169.254/", "http://public.example/", "http://hub.example/", "ftp://public.example/", "file:///etc/passwd", "gopher://127.0.0.1/", "data:text/plain,x", "javascript:1",
    "//127.0.0.1/", "//inner.example/x", "https://public.example@127.0.0.1/", "https:\\\\127.0.0.1\\", "https://127.0.0.1\\@public.example/", "https://user:pass@public.example/",
    "https://%31%32%37.0.0.1/", "https://127.0.0.1%00.public.example/", "https://public.example:99999/",
  ])("to %s is not followed: nothing is connected to", async (location) => {
    const { go, sent } = pretend(
      { "hub.example": [PUBLIC], "public.example": [PUBLIC], "inner.example": ["192.168.7.7"], "both.example": [PUBLIC, "127.0.0.1"], "cloud.example": ["::ffff:169.254.169.254"], localhost: ["127.0.0.1"], "localhost.": ["127.0.0.1"] },
      [to(location)],
    );
    expect(await rejectionOf(go(`${HUB}/`))).toMatchObject({ errorCode: expect.stringMatching(/^source_(refused|unavailable)$/) });
    expect(sent.map(({ host }) => host)).toEqual(["hub.example"]);
  });

  test.each([301, 302, 303, 307, 308])("with %d to a public host is followed without the token", async (status) => {
    const { go, sent } = pretend({ "hub.example": [PUBLIC], "storage.example": ["1.1.1.1"] }, [to("https://storage.example/file?sig=1", status)]);
    expect(await (await go(`${HUB}/`)).text()).toBe("end");
    expect(sent).toMatchObject([
      { host: "hub.example", authorization: "Bearer secret" },
      { url: "https://1.1.1.1/file?sig=1", host: "storage.example", authorization: null, serverName: "storage.example" },
    ]);
  });

  test("within the host keeps the token, to another port or scheme of it does not", async () => {
    const same = pretend({ "hub.example": [PUBLIC] }, [to("/moved")]);
    await same.go(`${HUB}/`);
    expect(same.sent.map(({ authorization }) => authorization)).toEqual(["Bearer secret", "Bearer secret"]);
    const port = pretend({ "hub.example": [PUBLIC] }, [to("https://hub.example:8443/")]);
    await port.go(`${HUB}/`);
    expect(port.sent.map(({ authorization }) => authorization)).toEqual(["Bearer secret", null]);
  });

  test("away and back again does not bring the token to where it led from the other host", async () => {
    const { go, sent } = pretend({ "hub.example": [PUBLIC], "storage.example": ["1.1.1.1"] }, [to("https://storage.example/"), to("https://third.example/")]);
    await rejectionOf(go(`${HUB}/`));
    expect(sent.map(({ host, authorization }) => [host, authorization])).toEqual([["hub.example", "Bearer secret"], ["storage.example", null]]);
  });

  test("follows others a few times only", async () => {
    const { go, sent } = pretend({ "hub.example": [PUBLIC] }, Array.from({ length: 20 }, () => to("/again")));
    expect(await rejectionOf(go(`${HUB}/`))).toMatchObject({ errorCode: "source_refused", message: "hub.example redirects more than 5 times" });
    expect(sent.length).toBe(6);
  });

  test("from a host of a closed list stays on the list", async () => {
    const closed = { ...policy, mayLeave: false };
    const { go, sent } = pretend({ "hub.example": [PUBLIC], "storage.example": ["1.1.1.1"] }, [to("https://storage.example/")]);
    expect(await rejectionOf(go(`${HUB}/`, closed))).toMatchObject({ message: "https://storage.example is not a host that may be downloaded from; add it with --source-host where that is meant" });
    expect(sent.length).toBe(1);
  });
});

describe("a proxy", () => {
  const env = { HTTPS_PROXY: "http://proxy.example:3128", no_proxy: "inner.example, .corp.example" };
  test("finds the addresses of names itself, addresses are judged here all the same", async () => {
    const sent: string[] = [];
    const means: FetchMeans = { ...systemMeans(env), lookup: () => Promise.reject(new Error("no names here")), fetch: async (url) => (sent.push(url.host), new Response("x")) };
    await guardedFetch(`${HUB}/`, policy, { signal: AbortSignal.timeout(5000) }, means);
    expect(await rejectionOf(guardedFetch("https://169.254.169.254/", policy, { signal: AbortSignal.timeout(5000) }, means))).toMatchObject({ errorCode: "source_refused" });
    expect(sent).toEqual(["hub.example"]);
  });

  test("is left out where no_proxy says so", () => {
    const { proxyFor } = systemMeans(env);
    expect(["https://hub.example/", "https://inner.example/", "https://a.corp.example/", "http://hub.example/"].map((url) => proxyFor(new URL(url)))).toEqual(["http://proxy.example:3128", null, null, null]);
  });
});

test("a real server is reached by the name that was asked for", async () => {
  await using server = await StandIn.start(() => new TextEncoder().encode("hello"));
  const { port } = new URL(server.origin);
  const origin = `http://models.example:${port}`;
  const means: FetchMeans = { ...systemMeans({}), lookup: async () => ["127.0.0.1"] };
  const response = await guardedFetch(`${origin}/x`, { ...policy, trusted: [origin] }, { signal: AbortSignal.timeout(5000) }, means);
  expect(await response.text()).toBe("hello");
  expect(server.asked[0]!.headers.host).toBe(`models.example:${port}`);
});

test("a certificate must be of the name that was asked for, though the connection goes to an address", async () => {
  // Of this test alone, for models.example.
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => readFileSync(join(REPOSITORY, "test/fixtures/tls", name), "utf8"));
  await using server = Bun.serve({ port: 0, hostname: "127.0.0.1", tls: { cert: cert!, key: key! }, fetch: (request) => new Response(request.headers.get("host")) });
  const means: FetchMeans = { ...systemMeans({}), lookup: async () => ["127.0.0.1"], ca: cert! };
  const ask = (name: string, own: FetchMeans = means) => {
    const origin = `https://${name}:${server.port}`;
    return guardedFetch(origin, { ...policy, trusted: [origin] }, { signal: AbortSignal.timeout(5000) }, own);
  };
  expect(await (await ask("models.example")).text()).toBe(`models.example:${server.port}`);
  expect(await rejectionOf(ask("other.example"))).toMatchObject({ code: "ERR_TLS_CERT_ALTNAME_INVALID" });
  const { ca: _ca, ...strangers } = means;
  expect(await rejectionOf(ask("models.example", strangers))).toMatchObject({ code: expect.stringMatching(/SELF_SIGNED|UNABLE_TO/) });
});
