"use strict";
const $ = (name) => document.getElementById(name);
const SVG = "http://www.w3.org/2000/svg";
const BOXES = 2; // the best one and the runner-up
let about = {};

async function json(address, options) {
  const response = await fetch(address, options);
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function show(slot, source) {
  const shown = slot.querySelector(".shown"), image = shown.querySelector("img");
  shown.querySelector("svg").replaceChildren();
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  image.onerror = () => { shown.hidden = true; };
  image.onload = () => { shown.hidden = false; shown.classList.remove("empty"); };
  if (source) image.src = source; else { image.removeAttribute("src"); shown.hidden = true; }
}

function take(slot, file) {
  slot.sent = file;
  slot.querySelector(".id").value = "";
  show(slot, URL.createObjectURL(file));
}

function addSlot() {
  const slot = $("slot").content.cloneNode(true).firstElementChild;
  const id = slot.querySelector(".id"), drop = slot.querySelector(".drop"), file = slot.querySelector(".file");
  id.addEventListener("input", async () => {
    const found = await json("images?" + new URLSearchParams({ like: id.value }));
    $("ids").replaceChildren(...found.map((name) => new Option(name, name)));
  });
  id.addEventListener("change", () => {
    slot.sent = null;
    file.value = "";
    show(slot, id.value && "picture?" + new URLSearchParams({ id: id.value }));
  });
  file.addEventListener("change", () => file.files[0] && take(slot, file.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => event.dataTransfer.files[0] && take(slot, event.dataTransfer.files[0]));
  $("slots").append(slot);
}

function draw(slot, size, choices) {
  const shown = slot.querySelector(".shown"), svg = shown.querySelector("svg");
  svg.replaceChildren();
  const boxes = choices.filter((choice) => choice.box).slice(0, BOXES);
  if (!boxes.length) return;
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  if (shown.hidden) { // no picture: the places alone
    shown.style.setProperty("--ratio", `${size.width} / ${size.height}`);
    shown.classList.add("empty");
    shown.hidden = false;
  }
  boxes.forEach(({ box: [left, top, right, bottom] }, rank) => {
    const rect = document.createElementNS(SVG, "rect");
    const sides = { x: left, y: top, width: right - left, height: bottom - top, class: `rank${rank}` };
    for (const [key, value] of Object.entries(sides)) rect.setAttribute(key, value);
    svg.append(rect);
  });
}

async function ask(event) {
  event.preventDefault();
  complain("");
  $("send").disabled = true;
  try {
    const form = new FormData(), slots = [...$("slots").children];
    const texts = about.texts === 1 ? [$("text").value.replaceAll("\n", " ")] : $("text").value.split("\n");
    for (const text of texts) form.append("text", text);
    const used = slots.filter((slot) => slot.sent || slot.querySelector(".id").value);
    const sent = used.filter((slot) => slot.sent), named = used.filter((slot) => !slot.sent);
    const bytes = sent.reduce((sum, slot) => sum + slot.sent.size, 0);
    if (bytes > about.max_upload_bytes) throw new Error(`the pictures are larger than ${about.max_upload_bytes >> 20} MB`);
    for (const [index, slot] of used.entries()) {
      form.append(`image${index}`, slot.sent || slot.querySelector(".id").value);
    }
    const answer = await json("ask", { method: "POST", body: form });
    $("answer").textContent = answer.answer;
    $("choices").replaceChildren(...answer.choices.map((choice) => {
      const line = document.createElement("li");
      line.textContent = choice.text;
      if (choice.probability !== undefined) {
        const meter = document.createElement("meter");
        meter.value = choice.probability;
        line.append(meter, ` ${(100 * choice.probability).toFixed(1)} %`);
      }
      return line;
    }));
    $("result").hidden = false;
    if (used.length) draw(used[0], answer.images[0], answer.choices);
  } catch (error) {
    $("result").hidden = true;
    complain(error.message);
  } finally {
    $("send").disabled = false;
  }
}

async function start() {
  about = await json("about");
  $("task").textContent = about.task;
  const photographs = about.detector ? "Photographs go through the detector." :
    "No detector: a dropped picture needs the name and size of an image with stored features.";
  $("about").textContent = `${about.checkpoint}; ${about.stored} images with stored features. ${photographs}`;
  for (let number = 0; number < (about.images || 1); number++) addSlot();
  $("more").hidden = about.images !== null;
  $("several").hidden = about.texts === 1;
  $("more").addEventListener("click", addSlot);
  $("form").addEventListener("submit", ask);
  document.body.dataset.ready = "yes";
}

start().catch((error) => complain(error.message));
