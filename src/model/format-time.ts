/** Python's `strftime` in English, as far as chat templates go. */

const MONTHS =
  "January February March April May June July August September October November December".split(
    " ",
  );
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(
  " ",
);

/** Local time; an unknown directive stays as it is written. */
export function formatTime(time: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  return format.replace(/%-?[a-zA-Z%]/g, (directive) => {
    switch (directive) {
      case "%Y":
        return String(time.getFullYear());
      case "%y":
        return two(time.getFullYear() % 100);
      case "%m":
        return two(time.getMonth() + 1);
      case "%d":
        return two(time.getDate());
      case "%-d":
        return String(time.getDate());
      case "%b":
        return MONTHS[time.getMonth()]!.slice(0, 3);
      case "%B":
        return MONTHS[time.getMonth()]!;
      case "%a":
        return DAYS[time.getDay()]!.slice(0, 3);
      case "%A":
        return DAYS[time.getDay()]!;
      case "%H":
        return two(time.getHours());
      case "%M":
        return two(time.getMinutes());
      case "%S":
        return two(time.getSeconds());
      case "%%":
        return "%";
      default:
        return directive;
    }
  });
}
