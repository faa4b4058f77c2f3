/** Cents become a JSON number only here, at the edge. */
export const toAmount = (cents: number) => cents / 100;
