/** @returns cents as an amount with decimals, for responses. All other code uses integer cents */
export const toAmount = (cents: number) => cents / 100;
