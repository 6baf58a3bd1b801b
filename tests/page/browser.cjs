// Drives Chromium for a test: a command in JSON on each line of standard input, an answer on each line of
// standard output. node browser.cjs MODULES CHROMIUM
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');

const [modules, chromium] = process.argv.slice(2);
const playwright = require(path.join(modules, 'playwright-core'));
const axe = fs.readFileSync(path.join(modules, 'axe-core', 'axe.min.js'), 'utf8');

let browser = null;
let page = null;
let wrong = [];

const commands = {
  async open({ url, options }) {
    if (page) await page.context().close();
    page = await (await browser.newContext(options)).newPage();
    wrong = [];
    page.on('pageerror', (error) => wrong.push(String(error)));
    page.on('console', (message) => {
      const text = message.text();
      // A controller that is away is what some tests are about.
      if (message.type() === 'error' && !/net::ERR_|503/.test(text)) wrong.push(text);
    });
    page.on('request', (request) => {
      if (!request.url().startsWith(url.split(/[?#]/)[0])) wrong.push(`asks elsewhere: ${request.url()}`);
    });
    await page.goto(url);
  },
  run: ({ script }) => page.evaluate(script),
  press: ({ key }) => page.keyboard.press(key),
  type: ({ text }) => page.keyboard.type(text),
  click: ({ selector }) => page.click(selector),
  picture: ({ path, full }) => page.screenshot({ path, fullPage: full }),
  wrong: () => wrong,
  async violations() {
    await page.evaluate(axe);
    const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
    return found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html).join(' ')}`);
  },
};

async function main() {
  browser = await playwright.chromium.launch({
    executablePath: chromium,
    args: process.getuid() === 0 ? ['--no-sandbox'] : [],
  });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
      answer = { value: (await commands[command.do](command)) ?? null };
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await browser.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
