export function countTests(report: string, exitCode: number | null): { passed: number; failed: number };
