/** @jsxImportSource preact */
/** The live page of a running Lorikeet. */
import { render } from "preact";
import { App } from "./app.tsx";
import { applyTheme, storedTheme } from "./theme.ts";

// Keys are typed here: not inside somebody else's page.
if (window.top === window.self) {
  applyTheme(storedTheme());
  render(<App />, document.getElementById("page")!);
} else {
  document.body.textContent = "This page does not show inside another one.";
}
