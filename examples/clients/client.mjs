// A bid client with Node's own fetch, which keeps connections open: node client.mjs http://localhost:8000

// Generous, for a machine that does other work too: an exchange gives 100 or so.
const TMAX_MS = 1000;

/** A result for each candidate; none where the service is overloaded or too late. */
export async function bid(url, request) {
  let response;
  try {
    response = await fetch(`${url}/predict`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ tmax_ms: TMAX_MS, ...request }),
      // A bid after the deadline is worth nothing: wait longer than the service would, then give up.
      signal: AbortSignal.timeout(2 * TMAX_MS),
    });
  } catch (error) {
    if (error.name === "TimeoutError") return [];
    throw error;
  }
  const answer = await response.json();
  if (response.status === 429) return [];
  if (response.status !== 200) {
    const { code, path, message } = answer.error;
    throw new Error(`${code} at ${path}: ${message}`);
  }
  return answer.results;
}

const url = process.argv[2] ?? "http://localhost:8000";
const results = await bid(url, {
  id: "req-1",
  context: { hour_of_day: 20, device: "phone", interests: ["music"] },
  candidates: [
    { id: "a", features: { ad_id: "ad3", category: "music" }, value_per_click: 0.8 },
    { id: "b", features: { ad_id: "ad1", category: "garden" }, value_per_click: 0.8 },
  ],
});
for (const result of results) {
  console.log(`${result.id}: pctr ${result.pctr.toFixed(4)}, bid ${result.bid}`);
}
try {
  await bid(url, { context: { age: "thirty" }, candidates: [{ id: "a" }] });
} catch (error) {
  console.log(`refused: ${error.message}`);
}
