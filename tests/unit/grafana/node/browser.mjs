// What Grafana's library looks at while it loads, and a browser has.
if (!globalThis.navigator?.languages) {
  const navigator = { userAgent: 'node', platform: 'node', language: 'en-US', languages: ['en-US'] };
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true });
}
