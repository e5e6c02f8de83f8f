/** Which addresses may be connected to. */
import { BlockList, isIP } from "node:net";

/** @source IANA special-purpose address registries (RFC 6890 and its updates) */
const NEVER = listOf([
  // Link-local, where clouds answer for a machine's credentials; "this" network; multicast and above.
  "169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "fe80::/10", "ff00::/8", "::/128", "fd00:ec2::/32",
  // Alibaba's and Oracle's metadata addresses lie in ranges that are otherwise shared or public.
  "100.100.100.200/32", "192.0.0.192/32",
]);
const NOT_PUBLIC = listOf([
  "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16",
  "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
  "2002::/16", "fc00::/7", "fec0::/10",
]);

function listOf(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const network of networks) {
    const [address, bits] = network.split("/") as [string, string];
    list.addSubnet(address, Number(bits), isIP(address) === 6 ? "ipv6" : "ipv4");
  }
  return list;
}

const isIn = (list: BlockList, address: string): boolean => list.check(plain(address), isIP(plain(address)) === 6 ? "ipv6" : "ipv4");

/** Addresses that say IPv4 in IPv6 are judged as what they stand for. */
function plain(address: string): string {
  const bare = address.replace(/%.*$/, "");
  const dotted = /^::(?:ffff:)?(\d+\.\d+\.\d+\.\d+)$/i.exec(bare);
  if (dotted !== null) return dotted[1]!;
  const hex = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/i.exec(bare);
  if (hex === null) return bare;
  const [high, low] = [Number.parseInt(hex[1]!, 16), Number.parseInt(hex[2]!, 16)];
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}

/** Not even for a host that the operator named. */
export const isNeverAllowed = (address: string): boolean => isIP(plain(address)) === 0 || isIn(NEVER, address);
/** For a host that somebody else named, in a redirect. */
export const isPublic = (address: string): boolean => !isNeverAllowed(address) && !isIn(NOT_PUBLIC, address);
