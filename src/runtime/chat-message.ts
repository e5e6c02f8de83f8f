/** One message of a conversation. Fields beyond these, such as `tool_calls`, are for the template as they are. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, or what else the model's template knows. */
  readonly role: string;
  /** Its text. */
  readonly content: string;
}
