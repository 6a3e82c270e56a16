// page-token.mjs JSON -- looks at the status page where [admin] auth wants a token, and prints what it saw as one line of JSON.
//
// JSON: { "url", "shots" (folder), "profile" (empty folder), "chromium", "token" }
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const installed = fileURLToPath(new URL('../../target/tools/node/', import.meta.url));
const { default: puppeteer } = await import(pathToFileURL(createRequire(installed).resolve('puppeteer-core')));
const given = JSON.parse(process.argv[2]);
const saw = { complaints: [] };

const browser = await puppeteer.launch({
  executablePath: given.chromium,
  userDataDir: given.profile,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
  ],
});

try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => saw.complaints.push(`script: ${error.message}`));
  page.on('console', (line) => {
    // The browser notes each status from 400 on; the page that asks is a 401, and wanted.
    const wanted = line.text().includes('status of 401');
    if (['error', 'warn'].includes(line.type()) && !wanted) saw.complaints.push(`console: ${line.text()}`);
  });
  await page.exposeFunction('violated', (what) => saw.complaints.push(`policy: ${what}`));
  await page.evaluateOnNewDocument(() => {
    document.addEventListener('securitypolicyviolation', (e) => window.violated(`${e.violatedDirective} ${e.blockedURI}`));
  });
  const text = (selector) => page.$eval(selector, (e) => e.innerText);
  const until = (what) => page.waitForFunction(what, { timeout: 20000, polling: 50 });
  const answer = await page.goto(given.url, { waitUntil: 'load' });
  saw.status = answer.status();
  saw.asks = await text('main');
  await page.screenshot({ path: join(given.shots, 'token.png'), fullPage: true });

  // By keyboard: a wrong one is said to be wrong, and the field is there again, empty.
  await page.type('#token', 'not-the-token');
  await page.keyboard.press('Enter');
  await until(() => document.querySelector('main').innerText.includes('This is not the token.'));
  saw.field = await page.$eval('#token', (e) => e.value);
  await page.screenshot({ path: join(given.shots, 'token-wrong.png'), fullPage: true });

  await page.type('#token', given.token);
  await page.keyboard.press('Enter');
  await until(() => document.querySelector('#credential-acme') !== null);
  saw.shows = await text('#credential-acme');
  // What the buttons send has it, too.
  await page.click('[aria-label="Refresh acme"]');
  await until(() => document.querySelector('#told').innerText.includes('a new token is asked for'));
  await page.screenshot({ path: join(given.shots, 'token-right.png'), fullPage: true });
  // In memory only.
  saw.kept = await page.evaluate(async () => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
  await page.reload({ waitUntil: 'load' });
  saw.again = await text('main');
} finally {
  await browser.close();
}
console.log(JSON.stringify(saw));
