/** Fields beyond these, such as `tool_calls`, are for the template as they are. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}
