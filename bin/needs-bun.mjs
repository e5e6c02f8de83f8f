/** What Node and others get for `import "lorikeet"`: the sources need Bun. */
throw new Error("lorikeet is a library for Bun; run this program with `bun FILE` (https://bun.sh)");
