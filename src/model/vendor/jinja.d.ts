export { Environment, Interpreter, Template } from "@huggingface/jinja";
